"""Supported spaces: flat Box observations, Discrete or flat Box actions; others are refused."""

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
        """A buffer for the actions of a rollout."""
        return np.empty((steps, copies), np.int64)

    def for_environment(self, actions: Array) -> list[Any]:
        """The actions to pass to the environments, one for each."""
        return (actions + self.start).tolist() if self.start else actions.tolist()

    def packed(self, action: int) -> bytes:
        """An action of `for_environment` as bytes."""
        return action.to_bytes(8, "little", signed=True)

    def unpacked(self, kept: bytes) -> list[Any]:
        """The inverse of `packed`, for several actions."""
        return np.frombuffer(kept, "<i8").tolist()


@dataclass(frozen=True)
class BoxActions:
    """Vectors within `low` and `high` [K]. Sampled actions are clipped for the environment only, not for learning."""

    low: Array
    high: Array
    continuous = True

    @property
    def distribution(self) -> Distribution:
        return Normal(len(self.low))

    def empty(self, steps: int, copies: int) -> Array:
        """A buffer for the actions of a rollout."""
        return np.empty((steps, copies, len(self.low)), np.float32)

    def for_environment(self, actions: Array) -> list[Any]:
        """The actions to pass to the environments, one for each."""
        return list(np.minimum(np.maximum(actions, self.low), self.high).astype(self.low.dtype))

    def packed(self, action: Array) -> bytes:
        """An action of `for_environment` as bytes."""
        return action.tobytes()

    def unpacked(self, kept: bytes) -> list[Any]:
        """The inverse of `packed`, for several actions."""
        return list(np.frombuffer(kept, self.low.dtype).reshape(-1, len(self.low)).copy())


Actions = DiscreteActions | BoxActions


def observation_size(environment: gymnasium.Env[Any, Any], name: str) -> int:
    """Size of an observation. Raises `TrineError` if it is not a flat vector."""
    space = environment.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise TrineError(
            f"{name}: observations are {space}; only flat Box observations are supported: wrap it in "
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
    raise TrineError(f"{name}: actions are {space}; only Discrete and flat Box actions (of real numbers) are supported")
