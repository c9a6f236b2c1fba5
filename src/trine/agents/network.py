"""Actor and critic: two separate MLPs with orthogonal initialisation (Saxe et al. 2014).

Hidden layers have tanh and gain sqrt(2); the critic's output layer has gain 1, the actor's 0.01, so that the initial
policy is nearly uniform. These are the choices in OpenAI's baselines that matter (Huang et al. 2022, "The 37
implementation details of PPO").

All weights are one parameter, so that gradient clipping and the optimizer handle one tensor. On a CPU the networks run
in NumPy, forward and backward (`layers.py`): on batches this small PyTorch's overhead per operation dominates. On GPUs,
and as the reference in a test, they run in plain PyTorch. Shapes: M steps, K numbers of an observation, A outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trine.agents.distributions import Array
from trine.agents.layers import Layers, Shapes, backward, forward
from trine.runtime.seeds import derive_seed


class Agent(nn.Module):
    """An actor, a critic if the algorithm has one, and log standard deviations if actions are continuous.

    Example::

        agent = Agent(observations=4, outputs=2, hidden=(64, 64), continuous=False, critic=True)
        initialize(agent, seed=0)
        logits, values = agent(torch.zeros(8, 4))
    """

    def __init__(
        self, observations: int, outputs: int, hidden: Sequence[int], *, continuous: bool, critic: bool
    ) -> None:
        super().__init__()
        means = outputs // 2 if continuous else outputs
        self.shapes = Shapes((observations, *hidden), (means, 1) if critic else (means,))
        self.has_critic = critic
        self.deviations = means if continuous else 0
        self.weights = nn.Parameter(torch.zeros(self.shapes.size + self.deviations))
        self._arrays: NumPyWeights | None = None
        self._address = 0
        self._gradient: tuple[Tensor, NumPyWeights] | None = None

    def named(self) -> dict[str, Tensor]:
        """The weights of every layer by name, as views."""
        layers = self.shapes.split(self.weights)
        named: dict[str, Tensor] = {}
        for network, name in enumerate(("actor", "critic")[: len(layers.heads)]):
            parts = [(weight[network], bias[network, 0]) for weight, bias in layers.hidden] + [layers.heads[network]]
            for place, (weight, bias) in enumerate(parts):
                named |= {f"{name}.{place}.weight": weight, f"{name}.{place}.bias": bias}
        return named | ({"log_deviations": self._log_deviations()} if self.deviations else {})

    def _log_deviations(self) -> Tensor:
        return self.weights[self.shapes.size :]

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters [M, A] and values [M] (0 without critic) for observations [M, K]."""
        if self.weights.device.type != "cpu":
            return self.plain(observations)
        outputs, values = _InNumPy.apply(self.weights, observations, self)
        return outputs, values

    def plain(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` in plain PyTorch."""
        layers = self.shapes.split(self.weights)
        found = []
        for network, head in enumerate(layers.heads):
            x = observations
            for weight, bias in layers.hidden:
                x = torch.tanh(F.linear(x, weight[network], bias[network, 0]))
            found.append(F.linear(x, *head))
        values = found[1].squeeze(1) if self.has_critic else observations.new_zeros(len(observations))
        if not self.deviations:
            return found[0], values
        return torch.cat((found[0], self._log_deviations().expand_as(found[0])), 1), values

    def in_numpy(self) -> "NumPyWeights":
        """The weights as arrays; on a CPU they share the memory of the parameter."""
        address = self.weights.data_ptr()
        if self._arrays is None or self._address != address:
            vector = self.weights.detach().cpu().numpy()
            arrays = NumPyWeights(vector, self.shapes)
            if vector.ctypes.data != address:  # a copy (GPU), valid until the next update
                return arrays
            self._arrays, self._address = arrays, address
        return self._arrays

    def gradient_in_numpy(self) -> "tuple[Tensor, NumPyWeights]":
        """A buffer for the gradient, reused at every call because autograd copies it, and views of its parts."""
        if self._gradient is None:
            vector = torch.empty(len(self.weights))
            self._gradient = vector, NumPyWeights(vector.numpy(), self.shapes)
        return self._gradient


class NumPyWeights:
    """Views of a vector of all weights (or of their gradient)."""

    def __init__(self, vector: Array, shapes: Shapes) -> None:
        self.layers = shapes.split(vector)
        self.log_deviations = vector[shapes.size :]

    def distributions(self, outputs: Array) -> Array:
        """The distribution parameters: the actor's outputs, and the log deviations if actions are continuous."""
        if not len(self.log_deviations):
            return outputs
        return np.concatenate((outputs, np.broadcast_to(self.log_deviations, outputs.shape)), 1)


class _InNumPy(torch.autograd.Function):
    """Both networks and their gradients as one node of the autograd graph instead of forty."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, observations: Tensor, agent: Agent) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.agent, ctx.weights = agent, agent.in_numpy()
        ctx.activations, found = forward(ctx.weights.layers, observations.numpy())
        outputs = torch.from_numpy(ctx.weights.distributions(found[0]))
        values = torch.from_numpy(found[1]).squeeze(1) if agent.has_critic else outputs.new_zeros(len(outputs))
        return outputs, values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor, value_gradient: Tensor) -> tuple[Tensor, None, None]:
        agent: Agent = ctx.agent
        gradient, places = agent.gradient_in_numpy()
        outer = output_gradient.numpy()
        if agent.deviations:
            outer[:, agent.deviations :].sum(0, out=places.log_deviations)
            outer = outer[:, : agent.deviations]
        given = (outer, value_gradient.unsqueeze(1).numpy()) if agent.has_critic else (outer,)
        backward(ctx.weights.layers, ctx.activations, given, places.layers)
        return gradient, None, None


@torch.no_grad()
def initialize(agent: Agent, seed: int) -> None:
    """Orthogonal weights and zero biases, from `seed` alone."""
    named = agent.named()
    for network, last_gain in (("actor", 0.01), ("critic", 1.0)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "initialize", network))
        weights = [part for name, part in named.items() if name.startswith(network) and name.endswith("weight")]
        for weight in weights:
            nn.init.orthogonal_(weight, last_gain if weight is weights[-1] else math.sqrt(2), generator)


class ActorInference:
    """The actor for inference. Call `refresh` before a rollout: for a GPU agent it copies the weights."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.refresh()

    def refresh(self) -> None:
        self.weights = self.agent.in_numpy()
        layers = self.weights.layers
        self.actor = Layers([(weight[:1], bias[:1]) for weight, bias in layers.hidden], layers.heads[:1])

    def policy(self, observations: Array) -> Array:
        """Distribution parameters [N, A] for observations [N, K] float32."""
        return self.weights.distributions(forward(self.actor, observations)[1][0])
