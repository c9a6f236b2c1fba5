"""Advantages and losses of groups, against the vectors G1 to G9."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from trine.algorithms.ppo import clipped_policy_loss
from trine.algorithms.text_groups import (
    Aggregation,
    Deviation,
    aggregation_count,
    global_advantages,
    group_advantages,
    leave_one_out_advantages,
    overlong_penalties,
    returns_to_go,
    sequence_log_ratios,
    token_weights,
    zero_variance,
)
from trine.algorithms.text_rewards import token_rewards

ONE_GROUP = torch.zeros(4).long()
TWO_RESPONSES = torch.arange(8) < torch.tensor([[2], [6]])


def near(values: Tensor, *expected: float) -> None:
    assert_close(values, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("deviation", "expected"),
    [
        ("population", (1.732051, -0.57735, -0.57735, -0.57735)),
        ("sample", (1.5, -0.5, -0.5, -0.5)),
        ("none", (0.75, -0.25, -0.25, -0.25)),
    ],
)
def test_g1_the_three_deviations(deviation: Deviation, expected: tuple[float, ...]) -> None:
    near(group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), ONE_GROUP, deviation), *expected)


@pytest.mark.parametrize("score", [0.35, 0.4, 0.3, 0.7])
def test_g1_a_group_has_no_variance_where_its_largest_score_is_its_smallest(score: float) -> None:
    """Seven scores of 0.35 have a computed deviation of 1.5e-4 in fp32; they are equal all the same (NeMo-RL#4161)."""
    equal = torch.full((7,), score)
    for deviation in ("population", "sample", "none"):
        assert group_advantages(equal, torch.zeros(7).long(), deviation).tolist() == [0.0] * 7
    assert leave_one_out_advantages(equal, torch.zeros(7).long()).tolist() == [0.0] * 7
    assert zero_variance(equal, torch.zeros(7).long()).all()
    winner = torch.cat((torch.tensor([0.95]), equal))
    advantages = group_advantages(winner, torch.zeros(8).long())
    assert not zero_variance(winner, torch.zeros(8).long()).any()
    assert float(advantages.abs().max()) == pytest.approx(2.474874, abs=1e-5), "not 4,000"


def test_groups_are_apart_whatever_their_order_and_size() -> None:
    scores, groups = torch.tensor([1.0, 5.0, 0.0, 7.0, 5.0, 3.0]), torch.tensor([9, 4, 9, 4, 4, 2])
    found = group_advantages(scores, groups, "none")
    near(found, 0.5, -2 / 3, -0.5, 4 / 3, -2 / 3, 0.0)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    assert group_advantages(scores[order], groups[order], "none").equal(found[order])


def test_g2_leave_one_out() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0])
    near(leave_one_out_advantages(scores, ONE_GROUP), -2.666667, -1.333333, 0.0, 4.0)
    near(scores - leave_one_out_advantages(scores, ONE_GROUP), 3.666667, 3.333333, 3.0, 2.0)
    near(leave_one_out_advantages(scores, torch.tensor([0, 0, 0, 1])), -1.5, 0.0, 1.5, 0.0)


@pytest.mark.parametrize(
    ("aggregation", "loss", "weights"),
    [
        ("response", 0.0, (0.25, 0.083333)),
        ("token", 0.5, (0.125, 0.125)),
        ("constant", 0.25, (0.0625, 0.0625)),
    ],
)
def test_g3_aggregation(aggregation: Aggregation, loss: float, weights: tuple[float, float]) -> None:
    """Two responses of 2 and 6 tokens, advantages 1 and -1, ratio 1, at most 8 new tokens."""
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 8)
    shares = token_weights(TWO_RESPONSES, aggregation) / aggregation_count(TWO_RESPONSES, aggregation, 8)
    assert float((-advantages * shares).sum()) == pytest.approx(loss, abs=1e-6)
    near(torch.stack((shares[0, 0], shares[1, 0])), *weights)
    assert float(shares[0, 2:].sum()) == 0


def test_g5_reinforce_plus_plus_with_a_baseline() -> None:
    """Centred in the group, then normalised over the tokens of all groups: mean -0.0625, deviation 0.299739."""
    scores, groups = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    mask = torch.arange(3) < torch.tensor([[1], [2], [3], [2]])
    rewards = token_rewards(group_advantages(scores, groups, "none"), torch.zeros(4, 3), mask, 0.0)
    advantages = global_advantages(rewards, mask)
    near(advantages[:, 0], 1.87663, -1.459601, 0.208514, 0.208514)
    assert float(advantages[0, 1:].abs().sum()) == 0
    assert float(advantages.sum()) == pytest.approx(0, abs=1e-5)


def test_what_follows_a_token_leaves_out_what_the_policy_did_not_write() -> None:
    rewards, mask = torch.tensor([[1.0, float("nan"), 2.0, 4.0]]), torch.tensor([[1, 0, 1, 1]]).bool()
    near(returns_to_go(rewards, mask)[0], 7.0, 0.0, 6.0, 4.0)
    near(returns_to_go(rewards, mask, gamma=0.5)[0], 3.0, 0.0, 4.0, 4.0)


def test_g6_the_ratio_of_a_whole_response() -> None:
    log_ratios = torch.tensor([0.1, -0.05, 0.25, 1.0], requires_grad=True)
    ratios = sequence_log_ratios(log_ratios, torch.tensor([0, 0, 0, 1]), 2).exp()
    near(ratios.detach(), 1.105171, 1.105171, 1.105171, 2.718282)
    # -A s of the first response, as a sum over its tokens with the weights of aggregation `response`.
    (-2.0 * ratios[:3] / 3).sum().backward()
    assert log_ratios.grad is not None
    near(log_ratios.grad, *[-2.0 * 1.105171 / 3] * 3, 0.0)


def test_g7_the_overlong_penalty() -> None:
    lengths = torch.tensor([16, 17, 19, 20, 21])
    near(overlong_penalties(lengths, limit=20, buffer=4), 0.0, -0.25, -0.75, -1.0, -1.0)


def test_g9_the_loss_is_zero_at_ratio_one_and_its_gradient_is_not() -> None:
    """A loss of 0 says nothing about learning (trl#2703, trl#3452): advantages of a group add up to 0."""
    logits = torch.tensor([0.2, -0.1, 0.4], requires_grad=True)
    log_probs = torch.log_softmax(logits, -1)[torch.tensor([0, 2, 2, 1])]
    advantages = 2 * group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), ONE_GROUP, "none")
    loss = clipped_policy_loss(log_probs, log_probs.detach(), advantages, clip_range=0.2).loss / 4
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    near(logits.grad, -0.25, -0.25, 0.5)


def expected_gradient(advantages: Callable[[Tensor], Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Of every group of `size` responses of one token in a world of three: (E of our gradient, that of E[reward]).

    fp64; the loss at ratio 1, with all groups summed exactly, each with its probability.
    """
    logits = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.2, -0.7], dtype=torch.float64)
    ours = torch.zeros(3, dtype=torch.float64)
    for taken in itertools.product(range(3), repeat=size):
        log_probs = torch.log_softmax(logits, -1)[list(taken)]
        loss = clipped_policy_loss(
            log_probs, log_probs.detach(), advantages(rewards[list(taken)]), clip_range=None
        ).loss / size  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, logits)
        ours -= log_probs.detach().sum().exp() * gradient
    (exact,) = torch.autograd.grad((torch.softmax(logits, -1) * rewards).sum(), logits)
    return ours, exact


@pytest.mark.parametrize("size", [2, 4])
def test_leave_one_out_has_the_gradient_of_the_expected_reward(size: int) -> None:
    ours, exact = expected_gradient(lambda scores: leave_one_out_advantages(scores, torch.zeros(size).long()), size)
    assert_close(ours, exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_the_mean_of_a_group_gives_that_gradient_less_its_own_share(size: int) -> None:
    """A response is part of its own baseline, so that GRPO without deviation has (n - 1) / n of it."""
    ours, exact = expected_gradient(lambda scores: group_advantages(scores, torch.zeros(size).long(), "none"), size)
    assert_close(ours, exact * (size - 1) / size, atol=1e-12, rtol=0)
