"""Actor and critic: two small networks that share nothing, with orthogonal weights (Saxe et al. 2014).

Hidden layers have gain sqrt(2), the critic's last 1; the actor's last has 0.01, so that the first policy prefers no
action. These are the choices of OpenAI's baselines that mattered (Huang et al. 2022, "The 37 implementation details of PPO").
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trine.agents.distributions import Array
from trine.runtime.seeds import derive_seed


class Agent(nn.Module):
    """`actor` and, where the algorithm has one, `critic`; `log_deviations` [K] where actions are continuous."""

    def __init__(self, observations: int, outputs: int, hidden: Sequence[int], *, continuous: bool, critic: bool) -> None:
        super().__init__()
        self.actor = _network(observations, outputs // 2 if continuous else outputs, hidden)
        self.critic = _network(observations, 1, hidden) if critic else None
        self.log_deviations = nn.Parameter(torch.zeros(outputs // 2)) if continuous else None

    def policy(self, observations: Tensor) -> Tensor:
        """The distributions' numbers [M, A] at observations [M, K]."""
        outputs: Tensor = self.actor(observations)
        if self.log_deviations is None:
            return outputs
        return torch.cat((outputs, self.log_deviations.expand_as(outputs)), 1)

    def values(self, observations: Tensor) -> Tensor:
        """The critic's values [M]; 0 without a critic."""
        if self.critic is None:
            return observations.new_zeros(len(observations))
        values: Tensor = self.critic(observations).squeeze(1)
        return values


def _network(inputs: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def initialize(agent: Agent, seed: int) -> None:
    """Orthogonal weights and zero biases, a function of `seed`."""
    for name, network, last_gain in (("actor", agent.actor, 0.01), ("critic", agent.critic, 1.0)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "initialize", name))
        linears = [layer for layer in network or () if isinstance(layer, nn.Linear)]
        for linear in linears:
            gain = last_gain if linear is linears[-1] else math.sqrt(2)
            nn.init.orthogonal_(linear.weight, gain, generator)
            nn.init.zeros_(linear.bias)


class Playing:
    """The actor in NumPy, for the few rows of a step: the same numbers as `Agent.policy` up to rounding.

    A layer on eight rows costs PyTorch ten times what it costs to compute. On a CPU the weights are the agent's own
    memory; call `refresh` before a rollout, since on a GPU they are copies.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.refresh()

    def refresh(self) -> None:
        linears = [layer for layer in self.agent.actor if isinstance(layer, nn.Linear)]
        self.layers = [(_array(linear.weight).T, _array(linear.bias)) for linear in linears]
        self.log_deviations = None if self.agent.log_deviations is None else _array(self.agent.log_deviations)

    def policy(self, observations: Array) -> Array:
        """The distributions' numbers [N, A] at observations [N, K] float32."""
        hidden = observations
        *inner, (weight, bias) = self.layers
        for inner_weight, inner_bias in inner:
            hidden = hidden @ inner_weight
            hidden += inner_bias
            np.tanh(hidden, hidden)
        outputs: Array = hidden @ weight
        outputs += bias
        if self.log_deviations is None:
            return outputs
        return np.concatenate((outputs, np.broadcast_to(self.log_deviations, outputs.shape)), 1)


def _array(parameter: Tensor) -> Array:
    array: Array = parameter.detach().cpu().numpy()
    return array
