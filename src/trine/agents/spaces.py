"""Supported spaces: flat Box observations, Discrete or flat Box actions; others are refused."""

from dataclasses import dataclass
from functools import cached_property
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


UNBOUNDED = float(np.finfo(np.float32).max)
"""An edge as far away as this is none: some environments write the largest float for infinity."""


@dataclass(frozen=True)
class BoxActions:
    """Vectors within `low` and `high` [K], which the policy samples in units of the range.

    A new policy samples about 0, with deviation 1, and sees no edge. So -1 and 1 stand for the edges of a range that
    has both, and 0 for its middle; where it has one, that edge is -1 (or 1) and a unit is a unit; where it has none,
    actions are what is sampled. They are clipped at the edges for the environment only: learning keeps what was
    sampled, and its log-probability. Without `scaled`, which is how older agents act, they are clipped alone.
    """

    low: Array
    high: Array
    scaled: bool = True
    continuous = True

    @cached_property
    def affine(self) -> tuple[Array, Array]:
        """(middle [K], half width [K]), in float64: the action is middle + half width * what was sampled."""
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        below, above = low > -UNBOUNDED, high < UNBOUNDED
        both = below & above
        half = np.where(both, 0.5 * np.where(both, high, 0.0) - 0.5 * np.where(both, low, 0.0), 1.0)
        middle = np.where(below, low + half, np.where(above, high - half, 0.0))
        return middle, half

    @property
    def as_sampled(self) -> bool:
        """Whether actions are what is sampled, but for clipping; so it is in ranges of -1 to 1."""
        middle, half = self.affine
        return not self.scaled or bool((middle == 0).all() and (half == 1).all())

    @property
    def distribution(self) -> Distribution:
        return Normal(len(self.low))

    def empty(self, steps: int, copies: int) -> Array:
        """A buffer for the actions of a rollout."""
        return np.empty((steps, copies, len(self.low)), np.float32)

    def for_environment(self, actions: Array) -> list[Any]:
        """The actions to pass to the environments, one for each."""
        if not self.as_sampled:
            middle, half = self.affine
            actions = middle + half * actions
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


def actions_of(environment: gymnasium.Env[Any, Any], name: str, *, scaled: bool = True) -> Actions:
    """The actions of an environment. Raises `TrineError` for spaces that are neither Discrete nor flat Box.

    `scaled`: whether those of a Box are sampled in units of its range.
    """
    space = environment.action_space
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(int(space.n), int(space.start))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return BoxActions(space.low, space.high, scaled)
    raise TrineError(f"{name}: actions are {space}; only Discrete and flat Box actions (of real numbers) are supported")
