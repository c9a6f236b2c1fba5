"""Whole episodes of a finished agent: their returns, and a film of one."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trine.agents.environments import SEEDS, Environments, Episode, make_environment
from trine.agents.folder import AgentDescription, Player, check_fits
from trine.agents.spaces import actions_of
from trine.runtime.errors import TrineError
from trine.runtime.files import write_bytes
from trine.runtime.seeds import derive_seed, generator_for
from trine.runtime.signals import stop_request

SIDE_BY_SIDE = 20
LONGEST_EPISODE = 50_000
"""Steps: an environment that never ends an episode cannot be measured by episodes."""
BLOCK = 256
"""Steps whose noise is drawn together."""
FILM_WIDTH = 300
FILM_FRAMES_PER_SECOND = 20
LONGEST_FILM = 300
"""Frames: a report holds the film."""


def play_episodes(description: AgentDescription, player: Player, count: int, seed: int) -> list[Episode]:
    """`count` fresh episodes, each begun from (seed, copy, episode).

    Which episodes count is settled before they are played: the first ones to end would be the short ones.
    """
    copies = min(SIDE_BY_SIDE, count)
    environments = Environments(description.environment, description.environment_options, copies, seed)
    check_fits(description, environments)
    shares = [count // copies + (copy < count % copies) for copy in range(copies)]
    kept: list[list[Episode]] = [[] for _ in range(copies)]
    generator = generator_for(seed, "actions")
    while any(len(episodes) < share for episodes, share in zip(kept, shares, strict=True)):
        stop_request.check()
        for noise in player.distribution.noise(generator, BLOCK, copies):
            environments.step(player.act(environments.observations, noise))
        for episode in environments.take_finished():
            kept[episode.copy].append(episode)
        _refuse_endless(description.environment, environments)
    environments.close()
    return [episode for episodes, share in zip(kept, shares, strict=True) for episode in episodes[:share]]


def _refuse_endless(name: str, environments: Environments) -> None:
    if environments.elapsed().max() > LONGEST_EPISODE:
        raise TrineError(
            f"{name}: an episode did not end within {LONGEST_EPISODE:,} steps, so that returns of episodes cannot be "
            "measured; register the environment with max_episode_steps, or set evaluation_episodes to 0"
        )


def frames(description: AgentDescription, player: Player, seed: int, render_mode: str) -> Iterator[tuple[Any, float]]:
    """One episode: the drawn frame (None on a window) and the return so far, before each action and at the end."""
    environment = make_environment(description.environment, description.environment_options, render_mode)
    actions = actions_of(environment, description.environment)
    generator = generator_for(seed, "actions")
    observation, _ = environment.reset(seed=derive_seed(seed, "film") % SEEDS)
    total, ended, step = 0.0, False, 0
    try:
        yield environment.render(), total
        while not ended and step < LONGEST_EPISODE:
            noise = player.distribution.noise(generator, 1, 1)[0]
            action = player.act(np.asarray(observation, np.float32)[None], noise)
            observation, reward, terminated, truncated, _ = environment.step(actions.for_environment(action)[0])
            total, ended, step = total + float(reward), terminated or truncated, step + 1
            yield environment.render(), total
    finally:
        environment.close()


def write_film(path: Path, description: AgentDescription, player: Player, seed: int, speed: float = 1.0) -> float:
    """Write one episode as a GIF, its beginning where it is long; returns the episode's return.

    Raises `TrineError` when the environment cannot be drawn.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # drawn in memory, where there may be no screen
    rate = _frames_per_second(description)
    every = max(1, round(rate * speed / FILM_FRAMES_PER_SECOND))
    pictures: list[Image.Image] = []
    total = 0.0
    for index, (frame, so_far) in enumerate(frames(description, player, seed, "rgb_array")):
        total = so_far
        if index % every == 0 and len(pictures) < LONGEST_FILM:
            pictures.append(_picture(frame, description.environment))
    buffer = io.BytesIO()
    milliseconds = max(20, round(1000 * every / (rate * speed)))
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True
    )
    write_bytes(path, buffer.getvalue())
    return total


def _frames_per_second(description: AgentDescription) -> float:
    environment = make_environment(description.environment, description.environment_options)
    metadata = environment.metadata
    environment.close()
    if "rgb_array" not in metadata.get("render_modes", ()):
        raise TrineError(f"{description.environment} cannot be drawn: it has no render mode rgb_array")
    return float(metadata.get("render_fps") or FILM_FRAMES_PER_SECOND)


def _picture(frame: Any, name: str) -> Image.Image:
    if not isinstance(frame, np.ndarray):
        raise TrineError(f"{name} cannot be drawn: its frames are {type(frame).__name__}, not arrays")
    picture = Image.fromarray(frame)
    height = max(1, round(picture.height * FILM_WIDTH / picture.width))
    return picture.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS).quantize(32, dither=Image.Dither.NONE)
