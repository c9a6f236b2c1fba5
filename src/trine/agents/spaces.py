"""Which environments can be learned: flat Box observations, Discrete or flat Box actions; others are refused."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trine.agents.distributions import Array, Categorical, Distribution, Normal
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class DiscreteActions:
    """Actions `start`, `start` + 1, ...: `count` of them."""

    count: int
    start: int
    continuous = False

    @property
    def distribution(self) -> Distribution:
        return Categorical(self.count)

    def empty(self, steps: int, copies: int) -> Array:
        """Room for the actions of a rollout."""
        return np.empty((steps, copies), np.int64)

    def for_environment(self, actions: Array) -> list[Any]:
        """What the environments are given, one each."""
        return (actions + self.start).tolist() if self.start else actions.tolist()

    def packed(self, action: int) -> bytes:
        """What an environment is given, to be kept."""
        return action.to_bytes(8, "little", signed=True)

    def unpacked(self, kept: bytes) -> list[Any]:
        """The actions that were kept, in order."""
        return np.frombuffer(kept, "<i8").tolist()


@dataclass(frozen=True)
class BoxActions:
    """Vectors between `low` and `high` [K]: a draw outside is brought to the edge when played, not when learned."""

    low: Array
    high: Array
    continuous = True

    @property
    def distribution(self) -> Distribution:
        return Normal(len(self.low))

    def empty(self, steps: int, copies: int) -> Array:
        """Room for the actions of a rollout."""
        return np.empty((steps, copies, len(self.low)), np.float32)

    def for_environment(self, actions: Array) -> list[Any]:
        """What the environments are given, one each."""
        return list(np.minimum(np.maximum(actions, self.low), self.high).astype(self.low.dtype))

    def packed(self, action: Array) -> bytes:
        """What an environment is given, to be kept."""
        return action.tobytes()

    def unpacked(self, kept: bytes) -> list[Any]:
        """The actions that were kept, in order."""
        return list(np.frombuffer(kept, self.low.dtype).reshape(-1, len(self.low)).copy())


Actions = DiscreteActions | BoxActions


def observation_size(environment: gymnasium.Env[Any, Any], name: str) -> int:
    """Numbers in an observation. Raises `TrineError` where it is not one flat vector."""
    space = environment.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise TrineError(
            f"{name}: observations are {space}; only flat Box observations can be learned from: wrap it in "
            "gymnasium.wrappers.FlattenObservation and register it under an id of its own"
        )
    return int(space.shape[0])


def actions_of(environment: gymnasium.Env[Any, Any], name: str) -> Actions:
    """The actions of an environment. Raises `TrineError` for spaces that are neither Discrete nor flat Box."""
    space = environment.action_space
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(int(space.n), int(space.start))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return BoxActions(space.low, space.high)
    raise TrineError(
        f"{name}: actions are {space}; only Discrete and flat Box actions (of real numbers) can be learned"
    )
