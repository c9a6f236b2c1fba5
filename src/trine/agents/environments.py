"""Copies of a Gymnasium environment, played side by side in one process; every reset is a function of counters.

Autoreset is ours and of the same step: when a copy's episode ends, its last observation is kept for the rollout and
the copy is reset at once, with a seed made of (seed, copy, episode). A copy can therefore be brought back after a stop
by resetting it and playing again what was played since: `state` keeps those actions and a digest of what they led to.
Some environments keep something across resets that no seed reaches (a physics engine's caches), so that an episode goes
otherwise after others: with `fresh` a copy is made anew for every episode, and there is nothing it could keep.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from trine.agents.distributions import Array
from trine.agents.spaces import Actions, actions_of, observation_size
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed

SEEDS = 2**31
"""Some simulators take seeds of 32 bits."""


def make_environment(name: str, options: Mapping[str, Any], render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """One copy. Raises `TrineError` for an unknown id, a missing extra, or options it does not take."""
    rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        return gymnasium.make(name, disable_env_checker=True, **rendering, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise TrineError(
            f"{name}: {error}; trine's extras are: pip install 'trine[control]' or 'trine[box2d]'"
        ) from None
    except Exception as error:  # another's code: it may raise anything
        raise TrineError(f"environment {name!r} with options {dict(options)} cannot be made: {error}") from None


@dataclass(frozen=True)
class Episode:
    """One that ended, in which copy: the sum of its rewards and its steps."""

    copy: int
    total: float
    length: int


@dataclass(frozen=True)
class Step:
    """What a step of all N copies gave. `ended` names those whose episode is over, with its last observation."""

    rewards: list[float]
    ended: list[tuple[int, bool, Array]]
    """(copy, terminated, last observation): one that is not terminated was truncated"""


class Environments:
    """`count` copies of environment `name`, a `fresh` one for every episode. Observations are float32."""

    def __init__(self, name: str, options: Mapping[str, Any], count: int, seed: int, *, fresh: bool = True) -> None:
        self.name, self.options, self.seed, self.fresh = name, options, seed, fresh
        self.copies = [make_environment(name, options) for _ in range(count)]
        self.actions: Actions = actions_of(self.copies[0], name)
        self.observation_size = observation_size(self.copies[0], name)
        spec = self.copies[0].spec
        self.time_limit = spec.max_episode_steps if spec is not None else None
        self.observations = np.empty((count, self.observation_size), np.float32)
        self.episodes = [0] * count
        self.totals = [0.0] * count
        self.lengths = [0] * count
        self.played = [bytearray() for _ in range(count)]
        self.unused = [True] * count
        self.digests = [0] * count
        self.finished: list[Episode] = []
        for copy in range(count):
            self._reset(copy, 0)

    def step(self, actions: Array) -> Step:
        """Play one action in every copy; an ended episode is noted in `finished`, and the copy begins its next."""
        rewards: list[float] = []
        ended: list[tuple[int, bool, Array]] = []
        for copy, action in enumerate(self.actions.for_environment(actions)):
            reward, terminated, truncated = self._play(copy, action)
            rewards.append(reward)
            if terminated or truncated:
                ended.append((copy, terminated, self.observations[copy].copy()))
                self.finished.append(Episode(copy, self.totals[copy], self.lengths[copy]))
                self._reset(copy, self.episodes[copy] + 1)
        return Step(rewards, ended)

    def _play(self, copy: int, action: Any) -> tuple[float, bool, bool]:
        """Reward, and whether the episode terminated or was truncated."""
        self.played[copy] += self.actions.packed(action)  # before the step, which may change the array it is given
        self.lengths[copy] += 1
        self.observations[copy], reward, terminated, truncated, _ = self.copies[copy].step(action)
        reward = float(reward)
        self.totals[copy] += reward
        self.digests[copy] = zlib.crc32(self.observations[copy], self.digests[copy])
        return reward, bool(terminated), bool(truncated)

    def _reset(self, copy: int, episode: int) -> None:
        if self.fresh and not self.unused[copy]:
            self.copies[copy].close()
            self.copies[copy] = make_environment(self.name, self.options)
        self.unused[copy] = False
        observation, _ = self.copies[copy].reset(seed=derive_seed(self.seed, "episode", copy, episode) % SEEDS)
        if np.shape(observation) != (self.observation_size,):
            raise TrineError(
                f"{self.name}: an observation has shape {np.shape(observation)}, not ({self.observation_size},) as "
                "its space says"
            )
        self.observations[copy] = observation
        self.episodes[copy], self.totals[copy], self.lengths[copy] = episode, 0.0, 0
        self.played[copy] = bytearray()
        self.digests[copy] = zlib.crc32(self.observations[copy])

    def take_finished(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def elapsed(self) -> Array:
        """Steps [N] since each copy's last reset."""
        return np.array(self.lengths)

    def state(self) -> list[dict[str, Any]]:
        """Enough to bring every copy back to where it is, as JSON: which episode, what was played, what that led to.

        Eight bytes or more for every step since the last reset: long only where no time limit ends episodes.
        """
        return [
            {
                "episode": self.episodes[copy],
                "played": base64.b64encode(self.played[copy]).decode(),
                "total": self.totals[copy],
                "digest": self.digests[copy],
            }
            for copy in range(len(self.copies))
        ]

    def replay(self, state: list[dict[str, Any]]) -> None:
        """Bring every copy back to where it was when `state` was taken.

        Raises `TrineError` naming the environment when the same seed and actions lead elsewhere.
        """
        for copy, was in enumerate(state):
            self._reset(copy, int(was["episode"]))
            for action in self.actions.unpacked(base64.b64decode(was["played"])):
                self._play(copy, action)
            if (self.totals[copy], self.digests[copy]) != (was["total"], was["digest"]):
                raise TrineError(
                    f"{self.name} does not reproduce: with the same seed and the same {self.lengths[copy]} actions, "
                    f"copy {copy} in its episode {was['episode']} showed other observations or rewards than before the "
                    "stop, so that the run cannot be continued exactly. Go on with new episodes (--resume "
                    "new_episodes), or start over (--overwrite true)"
                )

    def begin_anew(self, state: list[dict[str, Any]]) -> None:
        """Begin, in every copy, the episode after the one it was in."""
        for copy, was in enumerate(state):
            self._reset(copy, int(was["episode"]) + 1)

    def close(self) -> None:
        for environment in self.copies:
            environment.close()
