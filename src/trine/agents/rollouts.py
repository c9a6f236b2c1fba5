"""A rollout: T steps of N copies of an environment, and what is learned from it.

An episode, or the part of one that a rollout saw, is a row, as a response is one in the text world: `Rows` says which
steps make it, and advantages come from the same function. What follows a row's last step is worth nothing where
the episode terminated; the critic's value of what came next where it was truncated, or where the rollout ended first.
Shapes: T steps, N copies, M = T N steps in all (step by step), B rows, L steps of the longest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trine.agents.distributions import Array, Distribution
from trine.agents.environments import Environments, Episode
from trine.algorithms.advantages import generalized_advantages

Policy = Callable[[Array], Array]


@dataclass(frozen=True)
class Rollout:
    """What N copies showed in T steps. `last_observations` [N, K] come after the last step, where no episode ended."""

    observations: Array
    """[T, N, K] float32: before each action"""
    actions: Array
    """[T, N] or [T, N, K], as sampled"""
    rewards: Array
    """[T, N] float64"""
    terminated: Array
    """[T, N]: the episode ended there, and nothing follows"""
    truncated: Array
    """[T, N]: it was cut there, and something would have followed"""
    cut_observations: Array
    """[C, K]: the last observation of each truncated episode, in the order of steps and copies"""
    last_observations: Array
    elapsed: Array
    """[N]: steps that each copy's episode had when the rollout began"""
    episodes: list[Episode]
    """those that ended"""

    @property
    def ends(self) -> Array:
        ends: Array = self.terminated | self.truncated
        return ends


def play(environments: Environments, policy: Policy, distribution: Distribution, noise: Array) -> Rollout:
    """As many steps as there is noise [T, N, ...], from where the copies stand."""
    steps, copies = noise.shape[:2]
    observations = np.empty((steps, copies, environments.observation_size), np.float32)
    actions = environments.actions.empty(steps, copies)
    rewards = np.empty((steps, copies))
    terminated, truncated = np.zeros((2, steps, copies), bool)
    cut: list[Array] = []
    elapsed = environments.elapsed()
    for t in range(steps):
        observations[t] = environments.observations
        actions[t] = distribution.sample(policy(observations[t]), noise[t])
        step = environments.step(actions[t])
        rewards[t] = step.rewards
        for copy, is_terminal, observation in step.ended:
            (terminated if is_terminal else truncated)[t, copy] = True
            if not is_terminal:
                cut.append(observation)
    return Rollout(
        observations, actions, rewards, terminated, truncated,
        np.array(cut, np.float32).reshape(-1, environments.observation_size), environments.observations.copy(),
        elapsed, environments.take_finished(),
    )  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Which of M steps each row holds: `places` [B, L] where `mask` [B, L]; `stops` [B] and `copies` [B] its end."""

    places: Tensor
    mask: Tensor
    stops: Tensor
    copies: Tensor

    def of(self, values: Tensor) -> Tensor:
        """`values` [M] as rows [B, L]; what lies outside the mask counts for nothing."""
        return values[self.places]

    def back(self, rows: Tensor) -> Tensor:
        """[B, L] as [M]."""
        values = torch.empty(int(self.mask.sum()), dtype=rows.dtype)
        values[self.places[self.mask]] = rows[self.mask]
        return values


def rows_of(ends: Array) -> Rows:
    """The parts of episodes in a rollout whose `ends` [T, N] say after which steps one was over."""
    copies = ends.shape[1]
    last = ends.copy()
    last[-1] = True  # the rollout's own end
    of_copy, ending = np.nonzero(last.T)  # copy by copy, in order of time
    stops = ending + 1
    starts = np.where(np.diff(of_copy, prepend=-1) != 0, 0, np.concatenate(([0], stops[:-1])))
    offsets = np.arange((stops - starts).max())
    mask = offsets < (stops - starts)[:, None]
    places = np.where(mask, (starts[:, None] + offsets) * copies + of_copy[:, None], 0)
    return Rows(*(torch.from_numpy(array) for array in (places, mask, stops, of_copy)))


def advantages_of(
    rollout: Rollout,
    rewards: Tensor,
    values: Tensor,
    values_after: tuple[Tensor, Tensor],
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap: bool,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [M] of a rollout's steps, before any whitening.

    `rewards`, `values` [M]; `values_after`: of the observations truncated episodes ended with [C], and of the last ones
    [N]. Without `bootstrap` a truncated episode is worth as little as a terminated one; what the rollout's own end cuts
    is bootstrapped always.
    """
    cut_values, last_values = values_after
    rows = rows_of(rollout.ends)
    after = torch.zeros(rollout.ends.shape, dtype=values.dtype)
    after[-1] = last_values
    after[torch.from_numpy(rollout.terminated)] = 0.0
    after[torch.from_numpy(rollout.truncated)] = cut_values if bootstrap else 0.0
    final = after[rows.stops - 1, rows.copies]
    advantages, returns = generalized_advantages(
        rows.of(rewards), rows.of(values), rows.mask, gamma=gamma, gae_lambda=gae_lambda, final_values=final
    )
    return rows.back(advantages), rows.back(returns)


def complete_episodes(rollout: Rollout, time_limit: int) -> Tensor:
    """Which steps [M] belong to an episode of which it was certain, when it began, that the rollout would see its end.

    A return without a critic needs the whole rest of the episode. To take whichever episodes happened to end would
    prefer short ones; one that began at least the time limit before the rollout's end ends within it however it goes.
    """
    steps, copies = rollout.ends.shape
    begins = np.empty((steps, copies), np.int64)
    current = -rollout.elapsed
    for t in range(steps):
        begins[t] = current
        current = np.where(rollout.ends[t], t + 1, current)
    return torch.from_numpy((begins + time_limit <= steps).reshape(-1))
