"""Running moments of observations, and the scale of rewards; frozen while a rollout is played and learned from.

Both change between rollouts only, so that the first ratio of an update stays exactly 1. Moments of batches are merged
as in Chan et al. 1979, in float64.
"""

from typing import Any

import numpy as np

from trine.agents.distributions import Array

CLIP = 10.0
"""In deviations: what lies further out is brought to this."""
MIN_VARIANCE = 1e-8


class Moments:
    """Mean and variance of all rows ever added; 0 and 1 before the first."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self.variance = np.ones(size)

    def add(self, rows: Array) -> None:
        """Take in `rows` [M, K]."""
        rows = rows.astype(np.float64)
        total = self.count + len(rows)
        distance = rows.mean(0) - self.mean
        squares = self.count * self.variance + len(rows) * rows.var(0) + distance**2 * self.count * len(rows) / total
        self.mean = self.mean + distance * len(rows) / total
        self.variance = squares / total
        self.count = total

    def normalized(self, rows: Array) -> Array:
        """`rows` with mean 0 and variance 1, float32, at most `CLIP` from 0."""
        scaled = (rows - self.mean) / np.sqrt(self.variance + MIN_VARIANCE)
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.tolist(), "variance": self.variance.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean, self.variance = np.array(state["mean"], float), np.array(state["variance"], float)


class RewardScale:
    """Rewards over the deviation of the discounted return so far (Engstrom et al. 2020): signs and zero stay."""

    def __init__(self, copies: int, gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(copies)
        self.moments = Moments(1)

    def scaled(self, rewards: Array, ends: Array) -> Array:
        """`rewards` [T, N] scaled, after taking them in; `ends` [T, N] says where an episode ended."""
        seen = np.empty(rewards.shape)
        for t, (reward, ended) in enumerate(zip(rewards, ends, strict=True)):
            self.returns = self.returns * self.gamma + reward
            seen[t] = self.returns
            self.returns[ended] = 0.0
        self.moments.add(seen.reshape(-1, 1))
        return np.clip(rewards / np.sqrt(self.moments.variance + MIN_VARIANCE), -CLIP, CLIP).astype(np.float32)

    def state(self) -> dict[str, Any]:
        return {"returns": self.returns.tolist(), "moments": self.moments.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.returns = np.array(state["returns"], float)
        self.moments.restore(state["moments"])
