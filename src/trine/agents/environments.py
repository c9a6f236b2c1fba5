"""A vectorized Gymnasium environment in one process; every reset is seeded by counters.

Autoreset happens in the same step: when the episode of a copy ends, its last observation is kept for the rollout and
the copy is reset at once, with a seed derived from (seed, copy, episode). The state of a copy can therefore be restored
by resetting it and replaying the actions since: `state` keeps these actions and a digest of the observations they led
to. Some environments keep state across resets that the seed does not control (caches of a physics engine), so that an
episode depends on the previous ones; `fresh` therefore creates a new environment for every episode.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from trine.agents.contract import Contract
from trine.agents.distributions import Array
from trine.agents.spaces import Actions, actions_of, observation_size
from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told
from trine.runtime.importing import import_module, search_working_directory
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.runtime.source_code import own_files, source_digest

SEEDS = 2**31
"""Some simulators accept 32-bit seeds only."""


def make_environment(name: str, options: Mapping[str, Any], render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """One copy. Raises `TrineError` for an unknown id, a missing extra, or invalid options."""
    rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    search_working_directory()
    try:
        return gymnasium.make(name, disable_env_checker=True, **rendering, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise TrineError(
            f"{name}: {error}; trine's extras are: pip install 'trine[control]' or 'trine[box2d]'"
        ) from None
    except FOREIGN_ERRORS as error:  # third-party code may raise anything
        raise TrineError(
            f"environment {name!r} with options {dict(options)} cannot be created: {str(error) or told(error)}"
        ) from None


def environment_sources(name: str) -> dict[str, str]:
    """A digest of the environment's code under the name `environment`, where that is the user's own; else nothing.

    Its class or function, and the module that registers it; an installed environment is known by its id.
    """
    search_working_directory()
    try:
        registers = [import_module(each) for each in name.split(":")[:-1]]
        entry = gymnasium.spec(name.rsplit(":", maxsplit=1)[-1]).entry_point
        module, _, attribute = entry.partition(":") if isinstance(entry, str) else ("", "", "")
        made_by = getattr(import_module(module), attribute) if module else entry
    except FOREIGN_ERRORS:  # `make_environment` says what is wrong
        return {}
    defined = [made_by, *registers]
    return {"environment": source_digest("environment", *defined)} if own_files(*defined) else {}


@dataclass(frozen=True)
class Episode:
    """A finished episode: the copy it was played in, its return `total` and its `length` in steps."""

    copy: int
    total: float
    length: int


@dataclass(frozen=True)
class Step:
    """The result of one step of all N copies."""

    rewards: list[float]
    ended: list[tuple[int, bool, Array]]
    """(copy, terminated, last observation) of each episode that ended; if not terminated, it was truncated"""


class Environments:
    """`count` copies of environment `name`; with `fresh`, created anew for every episode. Observations are float32.

    Example::

        environments = Environments("CartPole-v1", {}, count=4, seed=0)
        step = environments.step(np.array([0, 1, 0, 1]))
        environments.close()
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], count: int, seed: int, *, fresh: bool = True,
        scaled_actions: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.options, self.seed, self.fresh = name, options, seed, fresh
        self.copies = [make_environment(name, options) for _ in range(count)]
        self.actions: Actions = actions_of(self.copies[0], name, scaled=scaled_actions)
        self.observation_size = observation_size(self.copies[0], name)
        self.contract = Contract(name, self.observation_size)
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
        """Take one action in every copy; a finished episode is added to `finished` and its copy is reset."""
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
        """(reward, terminated, truncated)."""
        self.played[copy] += self.actions.packed(action)  # before the step, which may modify the array
        self.lengths[copy] += 1
        observation, reward, terminated, truncated = self.contract.step(
            self.copies[copy], action,
            lambda: f"copy {copy}, episode {self.episodes[copy]}, step {self.lengths[copy]}",
        )  # fmt: skip
        self.observations[copy] = observation
        self.totals[copy] += reward
        self.digests[copy] = zlib.crc32(self.observations[copy], self.digests[copy])
        return reward, terminated, truncated

    def _reset(self, copy: int, episode: int) -> None:
        if self.fresh and not self.unused[copy]:
            self._close(copy)
            self.copies[copy] = make_environment(self.name, self.options)
        self.unused[copy] = False
        seed = derive_seed(self.seed, "episode", copy, episode) % SEEDS
        self.observations[copy] = self.contract.reset(
            self.copies[copy], seed, lambda: f"copy {copy}, episode {episode}, reset"
        )
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
        """What `replay` needs, as JSON: the episode, its actions so far, and a digest of the observations.

        At least 8 bytes for each step since the last reset: large only for environments without a time limit.
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
        """Restore every copy to `state` by replaying its actions.

        Raises `TrineError` if the environment is not deterministic given seed and actions.
        """
        for copy, was in enumerate(state):
            self._reset(copy, int(was["episode"]))
            for action in self.actions.unpacked(base64.b64decode(was["played"])):
                self._play(copy, action)
            if (self.totals[copy], self.digests[copy]) != (was["total"], was["digest"]):
                raise TrineError(
                    f"{self.name} does not reproduce: with the same seed and the same {self.lengths[copy]} actions, "
                    f"copy {copy} in its episode {was['episode']} showed other observations or rewards than before the "
                    "stop, so the run cannot be resumed exactly. Resume with new episodes (--resume "
                    "new_episodes), or give another --out"
                )

    def start_next_episodes(self, state: list[dict[str, Any]]) -> None:
        """Start, in every copy, the episode after the one in `state`."""
        for copy, was in enumerate(state):
            self._reset(copy, int(was["episode"]) + 1)

    def close(self) -> None:
        for copy in range(len(self.copies)):
            self._close(copy)

    def _close(self, copy: int) -> None:
        """An environment that fails to close has been played: that is said, and ends nothing."""
        try:
            self.copies[copy].close()
        except FOREIGN_ERRORS as error:
            say(f"   {self.name}, copy {copy}: close raised {told(error)}", style="yellow")
