"""The clipped losses against numbers worked by hand."""

from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from trine.algorithms.ppo import PolicyLoss, clipped_policy_loss, clipped_value_loss

NAN = float("nan")


def policy_loss(ratios: list[float], advantages: list[float], dual_clip: float | None = None) -> PolicyLoss:
    log_ratios = torch.tensor(ratios).log()
    old = torch.full_like(log_ratios, -2.0)
    mask = torch.ones(len(ratios)).bool()
    return clipped_policy_loss(old + log_ratios, old, torch.tensor(advantages), mask, clip=0.2, dual_clip=dual_clip)


def value_loss(value: float, old: float, target: float, clip: float | None) -> float:
    numbers = (torch.tensor([number]) for number in (value, old, target))
    return float(clipped_value_loss(*numbers, torch.tensor([True]), clip=clip))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 1.0, -1.2),  # clipped: no more to gain
        (0.5, 1.0, -0.5),  # the wrong way: not clipped
        (1.5, -1.0, 1.5),  # the wrong way: not clipped
        (0.5, -1.0, 0.8),  # clipped
        (1.1, -1.0, 1.1),
    ],
)
def test_the_policy_loss_is_the_pessimistic_one(ratio: float, advantage: float, loss: float) -> None:
    assert float(policy_loss([ratio], [advantage]).loss) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"), [(10.0, -1.0, 3.0), (2.0, -1.0, 2.0), (10.0, -2.0, 6.0), (0.1, 1.0, -0.1)]
)
def test_dual_clip_bounds_the_loss_where_the_advantage_is_negative(ratio: float, advantage: float, loss: float) -> None:
    assert float(policy_loss([ratio], [advantage], dual_clip=3.0).loss) == pytest.approx(loss, rel=1e-5)


def test_clipped_steps_have_no_gradient_and_others_that_of_the_ratio() -> None:
    log_probs = torch.tensor([log(1.5), log(0.5), log(1.5), log(0.5), 0.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    result = clipped_policy_loss(log_probs, torch.zeros(5), advantages, torch.ones(5).bool(), clip=0.2)
    (gradient,) = torch.autograd.grad(result.loss, log_probs)
    assert_close(gradient, torch.tensor([0.0, -0.5, 1.5, 0.0, -2.0]))
    assert float(result.clipped) == 2.0


def test_approximate_kl_is_k3_of_the_old_policy_to_the_new() -> None:
    result = policy_loss([1.5, 0.5], [1.0, 1.0])
    assert float(result.approximate_kl) == pytest.approx(0.5 - log(1.5) + -0.5 - log(0.5), rel=1e-5)


def test_sums_over_counts_weigh_every_token_alike() -> None:
    """Responses of 1 and 3 tokens with advantages +1 and -1: 0.5, where a mean of means would say 0."""
    short, long = policy_loss([1.0], [1.0]), policy_loss([1.0] * 3, [-1.0] * 3)
    assert float(short.loss + long.loss) / (1 + 3) == pytest.approx(0.5)
    assert (float(short.loss) / 1 + float(long.loss) / 3) / 2 == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss"),
    [
        (1.0, 0.0, 2.0, None, 0.5),
        (1.0, 0.0, 2.0, 0.2, 1.62),  # 0.5 (0.2 - 2)^2: the clipped one is worse
        (3.0, 0.0, 0.0, 0.2, 4.5),  # 0.5 (3 - 0)^2: the unclipped one is worse
        (-1.0, 0.0, -2.0, 0.2, 1.62),
        (0.1, 0.0, 1.0, 0.2, 0.405),  # inside the clip
    ],
)
def test_the_value_loss_is_the_worse_of_the_clipped_and_the_plain(
    value: float, old: float, target: float, clip: float | None, loss: float
) -> None:
    assert value_loss(value, old, target, clip) == pytest.approx(loss, rel=1e-6)


def _policy(values: Tensor, others: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return clipped_policy_loss(values, others, advantages, mask, clip=0.2, dual_clip=3.0).loss


def _value(values: Tensor, others: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return clipped_value_loss(values, others, targets, mask, clip=0.2)


def _plain_value(values: Tensor, others: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return clipped_value_loss(values, others, targets, mask, clip=None)


@pytest.mark.parametrize("loss", [_policy, _value, _plain_value])
@pytest.mark.parametrize("hole", [NAN, float("inf"), 1e30])
def test_padding_reaches_neither_loss_nor_gradient(loss, hole: float) -> None:
    inputs = [torch.tensor([-1.0, -2.0]), torch.tensor([-1.1, -1.0]), torch.tensor([0.5, -0.7])]
    wide = [torch.cat((tensor, torch.tensor([hole]))).requires_grad_() for tensor in inputs]
    narrow = [tensor.clone().requires_grad_() for tensor in inputs]
    padded, plain = loss(*wide, torch.tensor([True, True, False])), loss(*narrow, torch.tensor([True, True]))
    padded.backward()
    plain.backward()
    assert torch.equal(padded, plain)
    assert wide[0].grad.tolist() == [*narrow[0].grad.tolist(), 0.0]


def test_padding_reaches_no_diagnostic() -> None:
    wide = [torch.tensor([-1.0, NAN]), torch.tensor([-1.5, NAN]), torch.tensor([1.0, NAN])]
    padded = clipped_policy_loss(*wide, torch.tensor([True, False]), clip=0.2)
    plain = clipped_policy_loss(*(tensor[:1] for tensor in wide), torch.tensor([True]), clip=0.2)
    assert float(padded.clipped) == float(plain.clipped) == 1.0
    assert torch.equal(padded.approximate_kl, plain.approximate_kl)
