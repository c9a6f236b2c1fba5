"""Rollouts as tensors: what stands where, what is charged for, and what is reported."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import random_tensor, rollout
from trine.algorithms.text_rewards import token_rewards
from trine.stages.rl.experience import (
    Experience,
    final_scores,
    pad_rollouts,
    response_mask,
)
from trine.stages.rl.observations import rollout_statistics
from trine.stages.rl.ppo import gae_of_responses

END, PAD = 3, 1
CPU = torch.device("cpu")
ROLLOUTS = [
    rollout([2, END, 9], [20, 21, END], "eos", (-1.0, -2.0, -3.0)),
    rollout([2], [30], "length", (-4.0,)),
    rollout([7, PAD], [END], "eos", (-5.0,)),
]


def test_rows_are_prompt_and_response_padded_on_the_right() -> None:
    assert pad_rollouts(ROLLOUTS, PAD, CPU).ids.tolist() == [
        [2, END, 9, 20, 21, END],
        [2, 30, PAD, PAD, PAD, PAD],
        [7, PAD, END, PAD, PAD, PAD],
    ]


def test_every_response_token_is_predicted_one_place_earlier_and_nothing_else_is() -> None:
    """End and pad tokens inside a prompt are ordinary there."""
    padded = pad_rollouts(ROLLOUTS, PAD, CPU)
    assert list(zip(padded.rows.tolist(), padded.columns.tolist(), strict=True)) == [
        (0, 2), (0, 3), (0, 4), (1, 0), (2, 1),
    ]  # fmt: skip
    assert padded.targets.tolist() == [20, 21, END, 30, END]


def test_the_mask_covers_exactly_the_response_tokens() -> None:
    assert response_mask(ROLLOUTS).tolist() == [[True, True, True], [True, False, False], [True, False, False]]


def test_flat_values_follow_the_order_of_the_padded() -> None:
    mask = response_mask(ROLLOUTS)
    zeros = torch.zeros(mask.shape)
    experience = Experience(ROLLOUTS, torch.zeros(3), mask, zeros, zeros, zeros, zeros, zeros, zeros, zeros, mask)
    values = torch.arange(9.0).view(3, 3)
    for rows in ([0, 1, 2], [2, 0], [1]):
        padded = pad_rollouts([ROLLOUTS[row] for row in rows], PAD, CPU)
        expected = [float(values[rows[row], list(padded.rows[:n]).count(row)]) for n, row in enumerate(padded.rows)]
        assert experience.flat(values, rows).tolist() == expected


@pytest.mark.parametrize(
    ("penalty", "replacement", "cut_score"),
    [(0.0, None, 2.0), (0.5, None, 1.5), (0.0, -1.0, -1.0), (0.5, -1.0, -1.5), (0.0, 0.0, 0.0)],
)
def test_running_out_of_budget_is_charged_to_cut_responses_alone(
    penalty: float, replacement: float | None, cut_score: float
) -> None:
    scores = final_scores(torch.tensor([1.0, 2.0, 3.0]), ROLLOUTS, penalty, replacement)
    assert scores.tolist() == [1.0, cut_score, 3.0]


def test_advantages_are_whitened_over_all_response_tokens_and_returns_are_not() -> None:
    mask = response_mask(ROLLOUTS)
    values, log_ratios = random_tensor(2, 3, 3)
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), log_ratios, mask, 0.0)
    advantages, returns = gae_of_responses(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    assert_close(returns, torch.tensor([[1.0, 1, 1], [2, 0, 0], [3, 0, 0]]))
    expected = (torch.tensor([1.0, 1, 1, 2, 3]) - values[mask]).double()
    assert_close(advantages[mask].double(), (expected - expected.mean()) / expected.std(unbiased=False))
    assert not advantages[~mask].any()


def test_the_score_stands_at_the_end_token_or_at_the_last_token_of_a_cut_response() -> None:
    """With lambda 0 and no critic, only the step that earns a reward has a return."""
    mask, nothing = response_mask(ROLLOUTS), torch.zeros(3, 3)
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), nothing, mask, 0.1)
    _, returns = gae_of_responses(rewards, nothing, mask, gamma=1.0, gae_lambda=0.0)
    assert_close(returns, torch.tensor([[0.0, 0, 1], [2, 0, 0], [3, 0, 0]]))


def test_padding_changes_neither_advantages_nor_returns() -> None:
    mask = response_mask(ROLLOUTS)
    values, log_ratios = random_tensor(2, 3, 3)
    hole = torch.full((3, 4), float("nan"))
    scores = torch.tensor([1.0, 2.0, 3.0])

    def learned(log_ratios: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rewards = token_rewards(scores, log_ratios, mask, 0.2)
        return gae_of_responses(rewards, values, mask, gamma=0.9, gae_lambda=0.8)

    plain = learned(log_ratios, values, mask)
    padding = torch.zeros(3, 4).bool()
    wide = learned(torch.cat((log_ratios, hole), 1), torch.cat((values, hole), 1), torch.cat((mask, padding), 1))
    for padded, narrow in zip(wide, plain, strict=True):
        assert_close(padded[:, :3], narrow)
        assert not padded[:, 3:].any()


def test_statistics_are_per_response_or_per_token_and_never_of_padding() -> None:
    mask = response_mask(ROLLOUTS)
    old = torch.tensor([[-1.1, -2.0, -3.0], [-4.0, 99.0, 99.0], [-5.0, 99.0, 99.0]])
    reference = torch.where(mask, old - 0.5, torch.nan)
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 77.0, 77.0], [5.0, 77.0, 77.0]])
    experience = Experience(
        ROLLOUTS,
        torch.tensor([1.0, 2.0, 6.0]),
        mask,
        old,
        torch.where(mask, returns, 0.0),
        reference,
        returns,
        returns,
        returns,
        torch.ones(3, 3),
        mask,
    )
    assert rollout_statistics(experience) == pytest.approx(
        {
            "score": 3.0,
            "score_median": 2.0,
            "score_deviation": (14 / 3) ** 0.5,
            "score_error": 7**0.5 / 3**0.5,
            "zero_variance_share": 0.0,
            "kl": 0.5 * 5 / 3,  # nats per response: half a nat on each of five tokens
            "kl_error": (1 / 3) ** 0.5 / 3**0.5,
            "sampled_entropy": 15.1 / 5,
            "length": 5 / 3,
            "length_shortest": 1.0,
            "length_longest": 3.0,
            "ended_share": 2 / 3,
            "explained_variance": 1.0,
            "engine_difference": 0.1 / 5,
        },
        rel=1e-5,
    )
