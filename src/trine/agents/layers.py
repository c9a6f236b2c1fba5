"""Stacked tanh MLPs in NumPy: forward pass and gradients.

Networks whose hidden layers have the same widths (actor and critic) run as one stack: this halves the number of calls,
and on batches this small a call costs more than its computation. The reference is `network.Agent.plain` with PyTorch's
own gradients. Shapes: S networks, M steps, K inputs, H width of a layer, A outputs of a network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from trine.agents.distributions import Array

Vector = TypeVar("Vector", Array, Tensor)


@dataclass(frozen=True)
class Layers(Generic[Vector]):
    """Weights [S, H, K] and biases [S, 1, H] of each hidden layer; weight [A, H] and bias [A] of each output layer."""

    hidden: list[tuple[Vector, Vector]]
    heads: list[tuple[Vector, Vector]]


@dataclass(frozen=True)
class Shapes:
    """`widths`: of the input and the hidden layers; `outputs`: the output width of each network."""

    widths: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def size(self) -> int:
        """Total number of weights and biases."""
        hidden = sum((inputs + 1) * width for inputs, width in pairwise(self.widths))
        return len(self.outputs) * hidden + (self.widths[-1] + 1) * sum(self.outputs)

    def split(self, vector: Vector) -> Layers[Vector]:
        """The layers as views of the first `size` elements of `vector`."""
        place = 0

        def take(*shape: int) -> Vector:
            nonlocal place
            place += math.prod(shape)
            return vector[place - math.prod(shape) : place].reshape(shape)

        count = len(self.outputs)
        hidden = [(take(count, width, inputs), take(count, 1, width)) for inputs, width in pairwise(self.widths)]
        return Layers(hidden, [(take(outputs, self.widths[-1]), take(outputs)) for outputs in self.outputs])


def forward(layers: Layers[Array], x: Array) -> tuple[list[Array], list[Array]]:
    """(input of each layer, [M, K] and then [S, M, H]; output of each network [M, A])."""
    activations = [x]
    for weight, bias in layers.hidden:
        x = np.matmul(x, weight.transpose(0, 2, 1))  # [S, M, H]
        x += bias
        np.tanh(x, x)
        activations.append(x)
    outputs = []
    for network, (weight, bias) in enumerate(layers.heads):
        output = (x[network] if x.ndim == 3 else x) @ weight.T
        output += bias
        outputs.append(output)
    return activations, outputs


def backward(layers: Layers[Array], activations: Sequence[Array], outer: Sequence[Array], into: Layers[Array]) -> None:
    """Write the gradient of every weight and bias `into`, given the gradient `outer` [M, A] of each output."""
    x = activations[-1]
    gradient = np.empty_like(x)
    for network, (given, (weight, _), (weight_place, bias_place)) in enumerate(
        zip(outer, layers.heads, into.heads, strict=True)
    ):
        np.matmul(given.T, x[network] if x.ndim == 3 else x, weight_place)
        given.sum(0, out=bias_place)
        if x.ndim == 3:
            np.matmul(given, weight, gradient[network])
    for place in reversed(range(len(layers.hidden))):
        # d tanh(z) / dz = 1 - tanh(z)^2
        slope = activations[place + 1] * activations[place + 1]
        np.subtract(1.0, slope, slope)
        gradient *= slope
        weight_place, bias_place = into.hidden[place]
        np.matmul(gradient.transpose(0, 2, 1), activations[place], weight_place)
        gradient.sum(1, out=bias_place, keepdims=True)
        if place:
            gradient = np.matmul(gradient, layers.hidden[place][0])
