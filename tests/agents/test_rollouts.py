"""Advantages of rollouts, worked by hand: an episode that terminates, one that is cut, and one the rollout leaves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.agents import toys  # noqa: F401  (registers them)
from trine.agents.distributions import Categorical
from trine.agents.environments import Environments
from trine.agents.rollouts import Trajectories, collect, complete_episodes, compute_advantages, segments_of
from trine.algorithms.advantages import generalized_advantages

VALUES = {0: 4.0, 1: 2.0, 2: 6.0, 3: 8.0}
"""What the critic says of an observation of the counting environment."""


def played(name: str, steps: int, copies: int = 1) -> Trajectories:
    environments = Environments(f"trine-test/{name}", {}, copies, 0)
    noise = np.zeros((steps, copies, 2), np.float32)
    return collect(environments, lambda observations: np.zeros((len(observations), 2)), Categorical(2), noise)


def values_of(observations: np.ndarray) -> torch.Tensor:
    return torch.tensor([VALUES[int(value)] for value in observations.reshape(-1)])


def advantages(
    rollout: Trajectories, *, gae_lambda: float = 1.0, bootstrap: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    return compute_advantages(
        rollout, torch.from_numpy(rollout.rewards).float().reshape(-1), values_of(rollout.observations),
        (values_of(rollout.truncated_observations), values_of(rollout.last_observations)),
        gamma=0.5, gae_lambda=gae_lambda, bootstrap=bootstrap,
    )  # fmt: skip


def test_nothing_follows_a_terminated_episode_and_the_rollouts_own_end_is_bootstrapped() -> None:
    """Rewards 1, 2, 3 | 1, 2 | and the critic's 6 of what comes after, at a discount of a half."""
    rollout = played("Ends-v0", 5)
    assert rollout.terminated.reshape(-1).tolist() == [False, False, True, False, False]
    assert not rollout.truncated.any() and len(rollout.truncated_observations) == 0
    found, returns = advantages(rollout)
    assert_close(returns, torch.tensor([2.75, 3.5, 3.0, 3.5, 5.0]))
    assert_close(found, torch.tensor([-1.25, 1.5, -3.0, -0.5, 3.0]))


def test_a_truncated_episode_goes_on_with_the_value_of_its_own_last_observation() -> None:
    """8, the value of observation 3; not 4, that of the next episode's first: 3 + 8 / 2, 2 + 7 / 2, 1 + 5.5 / 2."""
    rollout = played("Cut-v0", 5)
    assert rollout.truncated.reshape(-1).tolist() == [False, False, True, False, False]
    assert rollout.truncated_observations.tolist() == [[3.0]] and not rollout.terminated.any()
    found, returns = advantages(rollout)
    assert_close(returns, torch.tensor([3.75, 5.5, 7.0, 3.5, 5.0]))
    assert_close(found, torch.tensor([-0.25, 3.5, 1.0, -0.5, 3.0]))


def test_the_older_treatment_counts_a_truncated_episode_as_ended() -> None:
    cut, ended = advantages(played("Cut-v0", 5), bootstrap=False), advantages(played("Ends-v0", 5))
    assert_close(cut[0], ended[0])
    assert_close(cut[1], ended[1])


def test_lambda_between_0_and_1_by_hand() -> None:
    """At lambda a half: delta = 1 + 1 - 4, 2 + 3 - 2, 3 + 4 - 6 = -2, 3, 1; A = -2 + .25 x 3.25, 3 + .25 x 1, 1."""
    found, _ = advantages(played("Cut-v0", 3), gae_lambda=0.5)
    assert_close(found, torch.tensor([-1.1875, 3.25, 1.0]))


def test_an_episode_that_ends_on_the_last_step_is_not_bootstrapped_from_the_next() -> None:
    _, returns = advantages(played("Ends-v0", 3))
    assert_close(returns, torch.tensor([2.75, 3.5, 3.0]))
    _, returns = advantages(played("Cut-v0", 3))
    assert_close(returns, torch.tensor([3.75, 5.5, 7.0]))


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_rows_hold_every_step_once_and_agree_with_the_recursion_step_by_step(
    steps: int, copies: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    terminated = generator.random((steps, copies)) < 0.25
    truncated = ~terminated & (generator.random((steps, copies)) < 0.25)
    cut = generator.normal(size=int(truncated.sum()))
    last, values, rewards = (generator.normal(size=shape) for shape in (copies, (steps, copies), (steps, copies)))
    rollout = Trajectories(
        np.zeros((steps, copies, 1)), np.zeros((steps, copies)), rewards, terminated, truncated, cut, last,
        np.zeros(copies, int), [],
    )  # fmt: skip
    found, returns = compute_advantages(
        rollout, torch.from_numpy(rewards.reshape(-1)), torch.from_numpy(values.reshape(-1)),
        (torch.from_numpy(cut), torch.from_numpy(last)), gamma=0.9, gae_lambda=0.8, bootstrap=True,
    )  # fmt: skip
    expected = _step_by_step(rewards, values, terminated, truncated, cut, last)
    assert_close(found, torch.from_numpy(expected.reshape(-1)))
    assert_close(returns, found + torch.from_numpy(values.reshape(-1)))


def _step_by_step(
    rewards: np.ndarray, values: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, cut: np.ndarray,
    last: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """GAE as it is usually written: backwards over a rollout, the chain broken wherever an episode is over."""
    after = np.zeros_like(rewards)
    after[truncated] = cut
    found = np.zeros_like(rewards)
    for copy in range(rewards.shape[1]):
        advantage, following = 0.0, last[copy]
        for t in reversed(range(len(rewards))):
            if terminated[t, copy] or truncated[t, copy]:
                advantage, following = 0.0, after[t, copy]
            advantage = rewards[t, copy] + 0.9 * following - values[t, copy] + 0.9 * 0.8 * advantage
            found[t, copy], following = advantage, values[t, copy]
    return found


def test_rows_are_parts_of_episodes() -> None:
    rows = segments_of(np.array([[0, 0], [1, 0], [0, 0], [0, 1]], bool))
    assert rows.gather(torch.arange(8))[rows.mask].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert rows.mask.sum(1).tolist() == [2, 2, 4]
    assert_close(rows.scatter(rows.gather(torch.arange(8.0))), torch.arange(8.0))


def test_reinforce_counts_only_episodes_it_was_sure_to_see_whole() -> None:
    """Limit 3, rollout of 7, episodes of 3: those that begin at 0 and 3 end in time; the one at 6 may not."""
    assert complete_episodes(played("Cut-v0", 7), 3).tolist() == [True] * 6 + [False]


def test_an_episode_that_happened_to_be_short_enough_does_not_count() -> None:
    """One that begins at 3 of 5 steps and ends at once would count only because it was short."""
    rollout = played("Cut-v0", 5)
    ends = np.array([[False], [False], [True], [True], [False]])
    short = Trajectories(**{**rollout.__dict__, "terminated": ends, "truncated": np.zeros_like(ends)})
    assert complete_episodes(short, 3).tolist() == [True] * 3 + [False] * 2


def test_what_is_left_of_an_episode_from_before_the_rollout_counts() -> None:
    rollout = played("Cut-v0", 3)
    ends = np.array([[True], [False], [False]])
    carried = Trajectories(**{**rollout.__dict__, "truncated": ends, "elapsed": np.array([2])})
    assert complete_episodes(carried, 3).tolist() == [True, False, False]


def test_with_no_critic_and_lambda_1_an_advantage_is_the_return_to_go() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0]])
    found, _ = generalized_advantages(rewards, torch.zeros(1, 3), torch.ones(1, 3).bool(), gamma=0.5, gae_lambda=1.0)
    assert_close(found, torch.tensor([[2.75, 3.5, 3.0]]))


@pytest.mark.parametrize("copies", [1, 3])
def test_a_rollout_keeps_what_was_seen_before_each_action(copies: int) -> None:
    rollout = played("Ends-v0", 4, copies)
    assert rollout.observations[:, :, 0].tolist() == [[value] * copies for value in (0.0, 1.0, 2.0, 0.0)]
    assert rollout.last_observations.tolist() == [[1.0]] * copies
    assert [episode.total for episode in rollout.episodes] == [6.0] * copies
