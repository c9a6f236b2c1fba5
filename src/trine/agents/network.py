"""Actor and critic: two small networks that share nothing, with orthogonal weights (Saxe et al. 2014).

Hidden layers are tanh with gain sqrt(2), the critic's last has gain 1; the actor's last has 0.01, so that the first
policy prefers no action. These are the choices of OpenAI's baselines that mattered (Huang et al. 2022, "The 37
implementation details of PPO").

All weights lie in one parameter, so that clipping and the optimizer touch one tensor. On a CPU the networks run in
NumPy, forward and backward (`layers.py`): on batches this small PyTorch spends most of its time between operations.
Elsewhere, and as the reference of a test, they are plain PyTorch.
Shapes: M steps, K numbers of an observation, A outputs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trine.agents.distributions import Array
from trine.agents.layers import backward, forward, split
from trine.runtime.seeds import derive_seed


class Agent(nn.Module):
    """An actor and, where the algorithm has one, a critic; `log_deviations` where actions are continuous."""

    def __init__(
        self, observations: int, outputs: int, hidden: Sequence[int], *, continuous: bool, critic: bool
    ) -> None:
        super().__init__()
        means = outputs // 2 if continuous else outputs
        self.shapes = {"actor": _shapes([observations, *hidden, means])}
        if critic:
            self.shapes["critic"] = _shapes([observations, *hidden, 1])
        self.deviations = means if continuous else 0
        sizes = [math.prod(shape) for shapes in self.shapes.values() for shape in shapes]
        self.weights = nn.Parameter(torch.zeros(sum(sizes) + self.deviations))
        self._arrays: NumPyWeights | None = None

    @property
    def has_critic(self) -> bool:
        return "critic" in self.shapes

    def named(self) -> dict[str, Tensor]:
        """Every weight under a name of its own, as a view."""
        parts = dict(zip(self.shapes, split(self.weights, list(self.shapes.values())), strict=True))
        named = {
            f"{network}.{index // 2}.{'weight' if index % 2 == 0 else 'bias'}": part
            for network, each in parts.items()
            for index, part in enumerate(each)
        }
        return named | ({"log_deviations": self._log_deviations()} if self.deviations else {})

    def _log_deviations(self) -> Tensor:
        return self.weights[len(self.weights) - self.deviations :]

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The distributions' numbers [M, A] and the critic's values [M], 0 without one, at observations [M, K]."""
        if self.weights.device.type != "cpu":
            return self.plain(observations)
        outputs, values = _InNumPy.apply(self.weights, observations, self)
        return outputs, values

    def plain(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The same in PyTorch."""
        found = [_plain(layers, observations) for layers in split(self.weights, list(self.shapes.values()))]
        values = found[1].squeeze(1) if self.has_critic else observations.new_zeros(len(observations))
        if not self.deviations:
            return found[0], values
        return torch.cat((found[0], self._log_deviations().expand_as(found[0])), 1), values

    def in_numpy(self) -> "NumPyWeights":
        """The weights as arrays: on a CPU the parameter's own memory, which changes under them."""
        if self._arrays is None or self._arrays.address != self.weights.data_ptr():
            arrays = NumPyWeights(self.weights.detach().cpu().numpy(), self)
            if arrays.address != self.weights.data_ptr():  # a copy, soon out of date
                return arrays
            self._arrays = arrays
        return self._arrays


class NumPyWeights:
    """A vector of all weights (or of their gradient) with views of its parts."""

    def __init__(self, vector: Array, agent: Agent) -> None:
        self.address = vector.ctypes.data
        self.networks = split(vector, list(agent.shapes.values()))
        self.log_deviations = vector[len(vector) - agent.deviations :]

    def distributions(self, outputs: Array) -> Array:
        """The actor's outputs, with the deviations where there are any."""
        if not len(self.log_deviations):
            return outputs
        return np.concatenate((outputs, np.broadcast_to(self.log_deviations, outputs.shape)), 1)


def _shapes(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """Weight, bias, weight, bias, ... of the layers between `widths`."""
    return [shape for inputs, outputs in pairwise(widths) for shape in ((outputs, inputs), (outputs,))]


def _plain(layers: Sequence[Tensor], x: Tensor) -> Tensor:
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        x = torch.tanh(F.linear(x, weight, bias))
    return F.linear(x, layers[-2], layers[-1])


class _InNumPy(torch.autograd.Function):
    """Both networks and their gradients; one node of PyTorch's graph instead of forty."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, observations: Tensor, agent: Agent) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.agent, ctx.weights = agent, agent.in_numpy()
        ctx.activations = [forward(layers, observations.numpy()) for layers in ctx.weights.networks]
        outputs = torch.from_numpy(ctx.weights.distributions(ctx.activations[0][-1]))
        if not agent.has_critic:
            return outputs, outputs.new_zeros(len(outputs))
        return outputs, torch.from_numpy(ctx.activations[1][-1]).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor, value_gradient: Tensor) -> tuple[Tensor, None, None]:
        agent: Agent = ctx.agent
        gradient = np.empty(len(agent.weights), np.float32)
        places = NumPyWeights(gradient, agent)
        outer = output_gradient.numpy()
        if agent.deviations:
            outer[:, agent.deviations :].sum(0, out=places.log_deviations)
            outer = outer[:, : agent.deviations]
        given = (outer, value_gradient.unsqueeze(1).numpy())
        parts = zip(given, ctx.weights.networks, ctx.activations, places.networks, strict=False)
        for each, layers, activations, place in parts:
            backward(layers, activations, each, place)
        return torch.from_numpy(gradient), None, None


@torch.no_grad()
def initialize(agent: Agent, seed: int) -> None:
    """Orthogonal weights and zero biases, a function of `seed`."""
    named = agent.named()
    for network, last_gain in (("actor", 0.01), ("critic", 1.0)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "initialize", network))
        weights = [part for name, part in named.items() if name.startswith(network) and name.endswith("weight")]
        for weight in weights:
            nn.init.orthogonal_(weight, last_gain if weight is weights[-1] else math.sqrt(2), generator)


class Playing:
    """The actor alone, for the few rows of a step; `refresh` before a rollout: on a GPU its weights are copies."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.refresh()

    def refresh(self) -> None:
        self.weights = self.agent.in_numpy()

    def policy(self, observations: Array) -> Array:
        """The distributions' numbers [N, A] at observations [N, K] float32."""
        return self.weights.distributions(forward(self.weights.networks[0], observations)[-1])
