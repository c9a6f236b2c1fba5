"""Trajectories: T steps of N copies of an environment, and their advantages.

An episode, or the part of it inside a rollout, is a segment: one row of a [B, L] tensor, like a response in language
modelling, so that both use the same function for advantages. The value after the last step of a segment is 0 if the
episode terminated, and the critic's value of the next observation if it was truncated or the rollout ended.
Shapes: T steps, N copies, M = T N steps in all (time-major), B segments, L steps of the longest segment.
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
class Trajectories:
    """T steps of N copies. `last_observations` [N, K] are those after the last step."""

    observations: Array
    """[T, N, K] float32: before each action"""
    actions: Array
    """[T, N] or [T, N, K], as sampled (before clipping to the action space)"""
    rewards: Array
    """[T, N] float64"""
    terminated: Array
    """[T, N]: the episode ended in a terminal state"""
    truncated: Array
    """[T, N]: the episode was cut off, for example by a time limit"""
    truncated_observations: Array
    """[C, K]: the last observation of each truncated episode, in the order of steps and copies"""
    last_observations: Array
    elapsed: Array
    """[N]: steps since the last reset of each copy when the rollout began"""
    episodes: list[Episode]
    """that ended in the rollout"""

    @property
    def ends(self) -> Array:
        ends: Array = self.terminated | self.truncated
        return ends


def collect(environments: Environments, policy: Policy, distribution: Distribution, noise: Array) -> Trajectories:
    """Step all copies T times with actions sampled from `policy`, given `noise` [T, N, ...]."""
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
    return Trajectories(
        observations, actions, rewards, terminated, truncated,
        np.array(cut, np.float32).reshape(-1, environments.observation_size), environments.observations.copy(),
        elapsed, environments.take_finished(),
    )  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """The steps of each segment: `indices` [B, L] into M steps where `mask` [B, L] holds.

    The segment ends before step `stops` [B] of copy `copies` [B].
    """

    indices: Tensor
    mask: Tensor
    stops: Tensor
    copies: Tensor

    def gather(self, values: Tensor) -> Tensor:
        """`values` [M] by segment [B, L]; entries outside the mask are arbitrary."""
        return values[self.indices]

    def scatter(self, rows: Tensor) -> Tensor:
        """The inverse of `gather`: [B, L] to [M]."""
        values = torch.empty(int(self.mask.sum()), dtype=rows.dtype)
        values[self.indices[self.mask]] = rows[self.mask]
        return values


def segments_of(ends: Array) -> Segments:
    """The segments of a rollout; `ends` [T, N]: whether an episode ended at that step."""
    copies = ends.shape[1]
    last = ends.copy()
    last[-1] = True  # the end of the rollout ends every segment
    of_copy, ending = np.nonzero(last.T)  # sorted by copy, then time
    stops = ending + 1
    starts = np.where(np.diff(of_copy, prepend=-1) != 0, 0, np.concatenate(([0], stops[:-1])))
    offsets = np.arange((stops - starts).max())
    mask = offsets < (stops - starts)[:, None]
    indices = np.where(mask, (starts[:, None] + offsets) * copies + of_copy[:, None], 0)
    return Segments(*(torch.from_numpy(array) for array in (indices, mask, stops, of_copy)))


def compute_advantages(
    rollout: Trajectories,
    rewards: Tensor,
    values: Tensor,
    values_after: tuple[Tensor, Tensor],
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap: bool,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [M] of all steps, before whitening.

    `rewards`, `values` [M]; `values_after`: values of `truncated_observations` [C] and of `last_observations` [N].
    Without `bootstrap`, truncation is treated as termination; the end of the rollout is always bootstrapped.
    """
    cut_values, last_values = values_after
    segments = segments_of(rollout.ends)
    after = torch.zeros(rollout.ends.shape, dtype=values.dtype)
    after[-1] = last_values
    after[torch.from_numpy(rollout.terminated)] = 0.0
    after[torch.from_numpy(rollout.truncated)] = cut_values if bootstrap else 0.0
    final = after[segments.stops - 1, segments.copies]
    advantages, returns = generalized_advantages(
        segments.gather(rewards),
        segments.gather(values),
        segments.mask,
        gamma=gamma,
        gae_lambda=gae_lambda,
        final_values=final,
    )
    return segments.scatter(advantages), segments.scatter(returns)


def complete_episodes(rollout: Trajectories, time_limit: int) -> Tensor:
    """Mask [M] of the steps whose episode is certain, when it starts, to end within the rollout.

    Without a critic, a return needs the whole rest of the episode. Using whichever episodes happen to end would favour
    short ones, so only those are used that start at least `time_limit` steps before the end of the rollout.
    """
    steps, copies = rollout.ends.shape
    begins = np.empty((steps, copies), np.int64)
    current = -rollout.elapsed
    for t in range(steps):
        begins[t] = current
        current = np.where(rollout.ends[t], t + 1, current)
    return torch.from_numpy((begins + time_limit <= steps).reshape(-1))
