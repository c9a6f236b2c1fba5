"""GAE against vectors worked by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.algorithms.advantages import generalized_advantages

NAN = float("nan")


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def mask_of(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


def test_the_golden_vector_of_schulman_is_met() -> None:
    advantages, returns = generalized_advantages(
        row(-0.01, 0.02, -0.03, 1), row(0.1, 0.2, 0.3, 0.4), mask_of(1, 1, 1, 1), gamma=1.0, gae_lambda=0.95
    )
    assert_close(advantages, row(0.7816, 0.728, 0.64, 0.6))
    assert_close(advantages, _by_definition(row(-0.01, 0.02, -0.03, 1), row(0.1, 0.2, 0.3, 0.4), 1.0, 0.95))
    assert_close(returns, advantages + row(0.1, 0.2, 0.3, 0.4))


def _by_definition(rewards: torch.Tensor, values: torch.Tensor, gamma: float, gae_lambda: float) -> torch.Tensor:
    """A_t = sum over l of (gamma gae_lambda)^l delta_{t+l}, eq. 16."""
    steps = rewards.shape[1]
    following = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), 1)
    deltas = rewards + gamma * following - values
    sums = [sum((gamma * gae_lambda) ** (k - t) * deltas[:, k] for k in range(t, steps)) for t in range(steps)]
    return torch.stack(sums, 1)


def test_a_value_in_the_padding_does_not_leak() -> None:
    advantages, returns = generalized_advantages(
        row(0, 1, 0), row(0, 0, 100), mask_of(1, 1, 0), gamma=1.0, gae_lambda=0.95
    )
    assert_close(advantages, row(0.95, 1, 0))
    assert_close(returns, row(0.95, 1, 0))


def test_advantage_and_value_carry_across_interior_masked_steps() -> None:
    """A_2 = 2 - .25; delta_0 = 1 + .9 x .25 - .5 = .725; A_0 = .725 + .72 x 1.75."""
    advantages, returns = generalized_advantages(
        row(1, NAN, 2), row(0.5, NAN, 0.25), mask_of(1, 0, 1), gamma=0.9, gae_lambda=0.8
    )
    assert_close(advantages, row(1.985, 0, 1.75))
    assert_close(returns, row(2.485, 0, 2.0))


def test_final_values_bootstrap_a_truncated_row() -> None:
    """A_1 = 1 + .5 x 4 - 3 = 0; delta_0 = 1 + .5 x 3 - 2 = .5."""
    arguments = row(1, 1), row(2, 3), mask_of(1, 1)
    advantages, returns = generalized_advantages(
        *arguments, gamma=0.5, gae_lambda=1.0, final_values=torch.tensor([4.0], dtype=torch.float64)
    )
    assert_close(advantages, row(0.5, 0.0))
    assert_close(returns, row(2.5, 3.0))


def test_final_values_reach_the_last_acted_step_through_padding() -> None:
    final = torch.tensor([4.0], dtype=torch.float64)
    padded, _ = generalized_advantages(
        row(1, 1, NAN), row(2, 3, NAN), mask_of(1, 1, 0), gamma=0.5, gae_lambda=1.0, final_values=final
    )
    assert_close(padded, row(0.5, 0.0, 0.0))


def test_without_final_values_the_last_step_is_terminal() -> None:
    advantages, _ = generalized_advantages(row(1, 1), row(2, 3), mask_of(1, 1), gamma=0.5, gae_lambda=1.0)
    assert_close(advantages, row(-0.5, -2.0))


def test_returns_at_lambda_one_are_the_discounted_rewards() -> None:
    _, returns = generalized_advantages(row(1, 2, 4), row(9, -7, 5), mask_of(1, 1, 1), gamma=0.5, gae_lambda=1.0)
    assert_close(returns, row(3, 4, 4))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 10**6))
def test_padding_changes_nothing_whatever_it_holds(steps: int, padding: int, seed: int) -> None:
    rewards, values = random_tensor(2, 3, steps, seed=seed, dtype=torch.float64)
    mask = torch.ones(3, steps, dtype=torch.bool)
    plain = generalized_advantages(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    hole = torch.full((3, padding), NAN, dtype=torch.float64)
    padded = generalized_advantages(
        torch.cat((rewards, hole), 1), torch.cat((values, hole), 1), torch.cat((mask, hole.isfinite()), 1),
        gamma=0.9, gae_lambda=0.8,
    )  # fmt: skip
    for wide, narrow in zip(padded, plain, strict=True):
        assert torch.equal(wide[:, :steps], narrow)
        assert not wide[:, steps:].any()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 10**6))
def test_masked_steps_are_as_if_cut_out(acted: list[bool], seed: int) -> None:
    mask = torch.tensor([acted])
    rewards, values = random_tensor(2, 1, len(acted), seed=seed, dtype=torch.float64)
    whole, _ = generalized_advantages(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    if any(acted):
        cut, _ = generalized_advantages(
            rewards[mask][None], values[mask][None], mask[mask][None], gamma=0.9, gae_lambda=0.8
        )
        assert_close(whole[mask][None], cut)
    assert not whole[~mask].any()
