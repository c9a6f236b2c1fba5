"""Environments whose every number is known beforehand. Importing this registers them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LIMIT = 3


class Count(gymnasium.Env[Any, Any]):
    """Observation: steps since the reset. Reward of step n: n. Terminates after `ends_after` steps, if ever."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, ends_after: int | None = None, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        self.ends_after, self.render_mode, self.count = ends_after, render_mode, 0

    def _observation(self) -> Any:
        return np.array([self.count], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self._observation(), float(self.count), self.count == self.ends_after, False, {}

    def render(self) -> Any:
        return np.full((30, 40, 3), 20 * self.count % 256, np.uint8)


class Walk(Count):
    """Steps by what the agent does (0 or 1; or a real number) and by chance; terminates far from 0."""

    def __init__(self, continuous: bool = False, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        if continuous:
            self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.place = np.zeros(2, np.float32)

    def _observation(self) -> Any:
        return self.place.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2).astype(np.float32)
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        moved = np.resize(np.asarray(action, np.float32), 2) - (0.5 if np.ndim(action) == 0 else 0.0)
        self.place = (self.place + moved + 0.1 * self.np_random.normal(size=2)).astype(np.float32)
        distance = float(np.abs(self.place).max())
        return self._observation(), 1.0 - distance, distance > 4, False, {}


class Forgetful(Walk):
    """Draws from a generator that no seed reaches."""

    unseeded = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.unseeded.normal(size=2).astype(np.float32)
        return self._observation(), {}


class Hoarding(Walk):
    """Keeps the number of its resets, and lets it move the agent."""

    resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.resets += 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, about = super().step(action)
        self.place[0] += 1e-3 * self.resets if self.count > 2 else 0.0
        self.count += 1
        return observation, reward, terminated, truncated, about


class Rescaling(Walk):
    """Changes the action it is given."""

    def step(self, action: Any) -> Any:
        action *= 0.5
        return super().step(action)


class Grid(Count):
    """Observations that are no flat vector, actions that are two choices."""

    def __init__(self, actions: bool = False) -> None:
        super().__init__()
        if actions:
            self.action_space = spaces.MultiDiscrete([2, 3])
        else:
            self.observation_space = spaces.Box(0, 1, (2, 2), np.float32)


for name, entry, limit, options in (
    ("Ends-v0", Count, None, {"ends_after": LIMIT}),
    ("Cut-v0", Count, LIMIT, {}),
    ("EndsAtItsLimit-v0", Count, LIMIT, {"ends_after": LIMIT}),
    ("Walk-v0", Walk, 12, {}),
    ("Glide-v0", Walk, 12, {"continuous": True}),
    ("Forgetful-v0", Forgetful, 12, {}),
    ("Hoarding-v0", Hoarding, 12, {}),
    ("Rescaling-v0", Rescaling, 12, {"continuous": True}),
    ("Grid-v0", Grid, 12, {}),
    ("TwoChoices-v0", Grid, 12, {"actions": True}),
):
    gymnasium.register(f"trine-test/{name}", entry_point=entry, max_episode_steps=limit, kwargs=options)
