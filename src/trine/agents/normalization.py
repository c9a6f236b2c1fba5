"""Running normalization of observations and scaling of rewards, as in Gymnasium's wrappers.

The statistics change between rollouts only, so that the first probability ratio of an update is exactly 1. Moments of
batches are merged as in Chan et al. 1979, in float64.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trine.agents.distributions import Array
from trine.algorithms.masked import centred

CLIP = 10.0
"""Normalized values are clipped to this many standard deviations."""
MIN_VARIANCE = 1e-8


def standardized(values: Tensor) -> Tensor:
    """(values - mean) / (deviation + 1e-8) of a minibatch [M], unbiased, as CleanRL has it; one value is unchanged."""
    if len(values) < 2:
        return values
    deviations, _ = centred(values, torch.ones_like(values, dtype=torch.bool))
    deviation = (deviations.square().sum() / (len(values) - 1)).sqrt()
    return (deviations / (deviation + 1e-8)).to(values.dtype)


class Moments:
    """Running mean and variance of all rows added; 0 and 1 before the first."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self.variance = np.ones(size)

    def add(self, rows: Array) -> None:
        """Update the moments with `rows` [M, K]."""
        rows = rows.astype(np.float64)
        total = self.count + len(rows)
        distance = rows.mean(0) - self.mean
        squares = self.count * self.variance + len(rows) * rows.var(0) + distance**2 * self.count * len(rows) / total
        self.mean = self.mean + distance * len(rows) / total
        self.variance = squares / total
        self.count = total

    def normalized(self, rows: Array) -> Array:
        """`rows` normalized to mean 0 and variance 1, clipped to +-`CLIP`, float32."""
        scaled = (rows - self.mean) / np.sqrt(self.variance + MIN_VARIANCE)
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.tolist(), "variance": self.variance.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean, self.variance = np.array(state["mean"], float), np.array(state["variance"], float)


class RewardScale:
    """Divides rewards by the deviation of the discounted return (Engstrom et al. 2020), without shifting them."""

    def __init__(self, copies: int, gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(copies)
        self.moments = Moments(1)

    def after(self, rewards: Array, ends: Array) -> "RewardScale":
        """The scale once `rewards` [T, N] were seen; `ends` [T, N]: whether an episode ended. This one stays as it is:
        whether a rollout counts is known only after its updates."""
        later = RewardScale(len(self.returns), self.gamma)
        later.restore(self.state())
        seen = np.empty(rewards.shape)
        for t, (reward, ended) in enumerate(zip(rewards, ends, strict=True)):
            later.returns = later.returns * self.gamma + reward
            seen[t] = later.returns
            later.returns[ended] = 0.0
        later.moments.add(seen.reshape(-1, 1))
        return later

    def without_returns(self) -> "RewardScale":
        """The scale as it is, of episodes not seen from their beginning."""
        later = RewardScale(len(self.returns), self.gamma)
        later.moments.restore(self.moments.state())
        return later

    def scaled(self, rewards: Array) -> Array:
        """`rewards` divided by the deviation of returns, clipped to +-`CLIP`, float32."""
        return np.clip(rewards / np.sqrt(self.moments.variance + MIN_VARIANCE), -CLIP, CLIP).astype(np.float32)

    def state(self) -> dict[str, Any]:
        return {"returns": self.returns.tolist(), "moments": self.moments.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.returns = np.array(state["returns"], float)
        self.moments.restore(state["moments"])
