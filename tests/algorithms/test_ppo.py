"""The clipped losses against numbers worked by hand."""

from math import log

import pytest
import torch
from torch.testing import assert_close

from trine.algorithms.ppo import PolicyLoss, clipped_policy_loss, clipped_value_loss


def policy_loss(ratios: list[float], advantages: list[float], dual_clip_range: float | None = None) -> PolicyLoss:
    log_ratios = torch.tensor(ratios).log()
    old = torch.full_like(log_ratios, -2.0)
    return clipped_policy_loss(
        old + log_ratios, old, torch.tensor(advantages), clip_range=0.2, dual_clip_range=dual_clip_range
    )


def value_loss(value: float, old: float, target: float, clip: float | None) -> float:
    numbers = (torch.tensor([number]) for number in (value, old, target))
    return float(clipped_value_loss(*numbers, clip_range=clip))


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
    assert float(policy_loss([ratio], [advantage], dual_clip_range=3.0).loss) == pytest.approx(loss, rel=1e-5)


def test_clipped_steps_have_no_gradient_and_others_that_of_the_ratio() -> None:
    log_probs = torch.tensor([log(1.5), log(0.5), log(1.5), log(0.5), 0.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    result = clipped_policy_loss(log_probs, torch.zeros(5), advantages, clip_range=0.2)
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


def test_without_a_clip_the_gradient_at_ratio_1_is_that_of_the_log_probability() -> None:
    """REINFORCE's: -A for every log-probability, and no step counts as clipped wherever the ratio goes."""
    log_probs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -3.0, 0.5])
    result = clipped_policy_loss(log_probs, log_probs.detach().clone(), advantages, clip_range=None)
    (gradient,) = torch.autograd.grad(result.loss, log_probs)
    assert_close(gradient, -advantages)
    far = clipped_policy_loss(torch.zeros(2), torch.tensor([-2.0, 2.0]), torch.tensor([1.0, -1.0]), clip_range=None)
    assert float(far.clipped) == 0.0
    assert_close(far.loss, -torch.tensor(2.0).exp() + torch.tensor(-2.0).exp())
