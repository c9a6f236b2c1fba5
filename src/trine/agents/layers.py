"""A network of tanh layers in NumPy: what it gives, and what its weights have to do with it.

`layers` is weight, bias, weight, bias, ...; a weight is [outputs, inputs], as PyTorch has it. The plain reference is
`network.Agent.plain` with PyTorch's own gradients; a test holds them together.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from trine.agents.distributions import Array

Vector = TypeVar("Vector", Array, Tensor)


def split(vector: Vector, networks: Sequence[Sequence[tuple[int, ...]]]) -> list[list[Vector]]:
    """Views of the beginning of `vector` in the shapes of each network's layers."""
    place = 0
    found = []
    for shapes in networks:
        views = []
        for shape in shapes:
            size = math.prod(shape)
            views.append(vector[place : place + size].reshape(shape))
            place += size
        found.append(views)
    return found


def forward(layers: Sequence[Array], x: Array) -> list[Array]:
    """What goes into each layer [M, inputs], and last what comes out of the network [M, outputs]."""
    activations = [x]
    for place in range(0, len(layers) - 2, 2):
        hidden = x @ layers[place].T
        hidden += layers[place + 1]
        x = np.tanh(hidden, hidden)
        activations.append(x)
    output = x @ layers[-2].T
    output += layers[-1]
    return [*activations, output]


def backward(layers: Sequence[Array], activations: Sequence[Array], gradient: Array, into: Sequence[Array]) -> None:
    """Write the gradient of every weight and bias `into` arrays of their shapes; `gradient` [M, outputs] is that of
    the output."""
    for place in range(len(layers) - 2, -1, -2):
        x = activations[place // 2]
        np.matmul(gradient.T, x, into[place])
        gradient.sum(0, out=into[place + 1])
        if place:
            # d tanh(z) / dz = 1 - tanh(z)^2
            slope = x * x
            np.subtract(1.0, slope, slope)
            gradient = gradient @ layers[place]
            gradient *= slope
