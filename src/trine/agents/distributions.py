"""Action distributions: categorical, or an independent normal for each dimension of a continuous action.

Sampling uses NumPy, because PyTorch's overhead per operation dominates on arrays this small. Log-probabilities and
entropies, which need gradients, use PyTorch. Shapes: T steps of N copies of the environment, M steps in all, A outputs
of the actor, K dimensions of a continuous action.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    """A family of distributions over actions, with `outputs` parameters each."""

    outputs: int

    def noise(self, generator: np.random.Generator, steps: int, copies: int) -> Array:
        """Random numbers for `sample`, for all steps at once: [T, N, ...] float32."""
        ...

    def sample(self, outputs: Array, noise: Array) -> Array:
        """One sampled action for each row of `outputs` [N, A], given the noise of one step [N, ...]."""
        ...

    def mode(self, outputs: Array) -> Array:
        """The most likely action of each row."""
        ...

    def log_probs_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (of a normal distribution: log-density) and entropy in nats, [M] each, for M actions."""
        ...


class Categorical:
    """One of `count` actions; the outputs are logits."""

    def __init__(self, count: int) -> None:
        self.outputs = count

    def noise(self, generator: np.random.Generator, steps: int, copies: int) -> Array:
        return generator.gumbel(size=(steps, copies, self.outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """The largest of logits plus Gumbel noise is a sample from their softmax (Maddison et al. 2014)."""
        return (outputs + noise).argmax(1)

    def mode(self, outputs: Array) -> Array:
        return outputs.argmax(1)

    def log_probs_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(outputs, 1)  # [M, A]
        return log_probs.gather(1, actions.unsqueeze(1)).squeeze(1), -(log_probs.exp() * log_probs).sum(1)


class Normal:
    """A diagonal normal distribution of `size` dimensions; the outputs are the means, then the log deviations."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.outputs = 2 * size

    def noise(self, generator: np.random.Generator, steps: int, copies: int) -> Array:
        return generator.standard_normal((steps, copies, self.size), np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        return outputs[:, : self.size] + np.exp(outputs[:, self.size :]) * noise

    def mode(self, outputs: Array) -> Array:
        return outputs[:, : self.size]

    def log_probs_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        means, log_deviations = outputs.chunk(2, 1)  # [M, K] each
        spread = log_deviations.sum(1) + self.size * HALF_LOG_TWO_PI
        distances = (actions - means) * torch.exp(-log_deviations)
        return distances.square().sum(1) * -0.5 - spread, spread + 0.5 * self.size
