"""What an actor's outputs mean: a categorical distribution over actions, or a normal one for every part of an action.

Each has two faces. NumPy's plays: a step of a few small arrays is where a library for large ones loses its time.
PyTorch's learns: log-probabilities and entropies with gradients. Shapes: N copies of the environment, M steps,
A outputs, K parts of a continuous action.
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
    """A family of distributions over actions; `outputs` numbers tell one of them."""

    outputs: int

    def noise(self, generator: np.random.Generator, steps: int, copies: int) -> Array:
        """What `sample` needs for so many steps, sampled at once: [T, N, ...] float32."""
        ...

    def sample(self, outputs: Array, noise: Array) -> Array:
        """One action for each row of `outputs`, decided by the noise of its step."""
        ...

    def mode(self, outputs: Array) -> Array:
        """The most likely action of each row."""
        ...

    def log_probs_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Of each of M actions, in nats, [M] each; of a normal distribution the density's."""
        ...


class Categorical:
    """One of `count` actions; the outputs are logits."""

    def __init__(self, count: int) -> None:
        self.outputs = count

    def noise(self, generator: np.random.Generator, steps: int, copies: int) -> Array:
        return generator.gumbel(size=(steps, copies, self.outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """The largest of logits plus Gumbel noise is a draw from their softmax (Maddison et al. 2014)."""
        return (outputs + noise).argmax(1)

    def mode(self, outputs: Array) -> Array:
        return outputs.argmax(1)

    def log_probs_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(outputs, 1)
        return log_probs.gather(1, actions.unsqueeze(1)).squeeze(1), -(log_probs.exp() * log_probs).sum(1)


class Normal:
    """A vector of `size` parts, independent of each other; the outputs are their means, then their log deviations."""

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
        means, log_deviations = outputs.chunk(2, 1)
        spread = log_deviations.sum(1) + self.size * HALF_LOG_TWO_PI
        distances = (actions - means) * torch.exp(-log_deviations)
        return distances.square().sum(1) * -0.5 - spread, spread + 0.5 * self.size
