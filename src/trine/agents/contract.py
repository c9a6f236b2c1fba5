"""What an environment returns, checked before it is learned from; errors name environment, place and what was returned.

Gymnasium's own checker is a wrapper that warns, and only at the first call. Here every call is checked: shape and kind
of an observation, that a reward is one number, that flags are flags, that nothing is NaN or infinite.
"""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from trine.agents.distributions import Array
from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told

NUMBERS = "fiub"
"""Kinds of NumPy dtypes that are numbers."""
Place = Callable[[], str]
"""Says which episode, of which copy, and which step of it: asked for only where something is wrong."""
RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"


@dataclass(frozen=True)
class Contract:
    """The promises of environment `name`, whose observations are vectors of `size` numbers."""

    name: str
    size: int

    def reset(self, environment: gymnasium.Env[Any, Any], seed: int, place: Place) -> Array:
        """Reset it; the first observation [K], float32."""
        try:
            returned = environment.reset(seed=seed)
        except FOREIGN_ERRORS as error:
            raise self._failed("reset", error, RESET, place) from error
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise self._wrong(f"reset returned {_told(returned)}; {_api(RESET)}", place)
        return self._observation(returned[0], place)

    def step(self, environment: gymnasium.Env[Any, Any], action: Any, place: Place) -> tuple[Array, float, bool, bool]:
        """Take a step; (observation [K] float32, reward, terminated, truncated)."""
        try:
            returned = environment.step(action)
        except FOREIGN_ERRORS as error:
            raise self._failed("step", error, STEP, place) from error
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise self._wrong(f"step returned {_told(returned)}; {_api(STEP)}", place)
        observation, reward, terminated, truncated, _ = returned
        return (
            self._observation(observation, place),
            self._reward(reward, place),
            self._flag("terminated", terminated, place),
            self._flag("truncated", truncated, place),
        )

    def _observation(self, value: Any, place: Place) -> Array:
        try:
            array = np.asarray(value)
        except ValueError:  # a list of unlike parts
            raise self._wrong(
                f"an observation is {reprlib.repr(value)}, which is no vector of numbers", place
            ) from None
        if array.shape != (self.size,):
            raise self._wrong(
                f"an observation has shape {array.shape}; its observation space says ({self.size},)", place
            )
        if array.dtype.kind not in NUMBERS:
            raise self._wrong(f"an observation is {reprlib.repr(value)}, which is no vector of numbers", place)
        numbers = array
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):
                numbers = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise self._wrong(
                f"an observation is not finite: number {int((~np.isfinite(numbers)).argmax())} of it is "
                f"{array[~np.isfinite(numbers)][0]}", place,
            )  # fmt: skip
        return numbers

    def _reward(self, value: Any, place: Place) -> float:
        if type(value) is not float:
            try:
                array = np.asarray(value)
            except FOREIGN_ERRORS:  # a list of unlike parts, a tensor of a GPU
                array = np.empty(0)
            if array.size != 1 or array.dtype.kind not in NUMBERS:
                raise self._wrong(f"a reward is {_told(value)}, not one number", place)
            value = float(array.item())
        if not math.isfinite(value):
            raise self._wrong(f"a reward is {value}, which is not finite", place)
        return float(value)

    def _flag(self, what: str, value: Any, place: Place) -> bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        if isinstance(value, (int, np.integer)) and value in (0, 1):
            return bool(value)
        if isinstance(value, np.ndarray) and value.shape == () and value.dtype == bool:
            return bool(value)
        raise self._wrong(f"{what} is {_told(value)}, not True or False; {_api(STEP)}", place)

    def _failed(self, call: str, error: BaseException, promised: str, place: Place) -> TrineError:
        """An exception of the environment's own, or of a wrapper of Gymnasium's that unpacked too few values."""
        unpacking = isinstance(error, (TypeError, ValueError)) and "unpack" in str(error)
        return self._wrong(f"{call} raised {told(error)}{'; ' + _api(promised) if unpacking else ''}", place)

    def _wrong(self, what: str, place: Place) -> TrineError:
        return TrineError(f"{self.name}, {place()}: {what}")


def _api(promised: str) -> str:
    return f"Gymnasium's environments return {promised}, those of the old Gym did not"


def _told(value: Any) -> str:
    """What it is: a tuple by its length, an array by its shape, anything else by itself."""
    if isinstance(value, tuple):
        return f"{len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"{reprlib.repr(value)} ({type(value).__name__})"
