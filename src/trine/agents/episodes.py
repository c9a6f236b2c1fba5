"""Whole episodes of a finished agent: their returns, and a film of one."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
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
"""Steps whose noise is sampled together."""
FILM_WIDTH, FILM_COLOURS = 300, 32
FILM_FRAMES_PER_SECOND = 20
LONGEST_FILM = 300
"""Frames: a report holds the film."""


def play_episodes(
    description: AgentDescription, player: Player, count: int, seed: int, *, may_stop: bool = True
) -> list[Episode]:
    """`count` fresh episodes, each begun from (seed, copy, episode).

    Which episodes count is settled before they are played: the first ones to end would be the short ones. Where work is
    unsaved, `may_stop` is False: a signal is left to who asks. Raises `TrineError` when episodes do not end.
    """
    copies = min(SIDE_BY_SIDE, count)
    environments = Environments(description.environment, description.environment_options, copies, seed)
    try:
        check_fits(description, environments)
        return _first_ones(description.environment, environments, player, count, seed, may_stop)
    finally:
        environments.close()


def _first_ones(
    name: str, environments: Environments, player: Player, count: int, seed: int, may_stop: bool
) -> list[Episode]:
    """The first episodes of every copy, as many of each as make `count`."""
    copies = len(environments.copies)
    shares = [count // copies + (copy < count % copies) for copy in range(copies)]
    kept: list[list[Episode]] = [[] for _ in range(copies)]
    generator = generator_for(seed, "actions")
    while any(len(episodes) < share for episodes, share in zip(kept, shares, strict=True)):
        if may_stop:
            stop_request.check()
        for noise in player.distribution.noise(generator, BLOCK, copies):
            environments.step(player.act(environments.observations, noise))
        for episode in environments.take_finished():
            kept[episode.copy].append(episode)
        _refuse_endless(name, environments)
    return [episode for episodes, share in zip(kept, shares, strict=True) for episode in episodes[:share]]


def _refuse_endless(name: str, environments: Environments) -> None:
    if environments.elapsed().max() > LONGEST_EPISODE:
        raise TrineError(
            f"{name}: an episode did not end within {LONGEST_EPISODE:,} steps, so that returns of episodes cannot be "
            "measured; register the environment with a smaller max_episode_steps"
        )


def frames(description: AgentDescription, player: Player, seed: int, render_mode: str) -> Iterator[tuple[Any, float]]:
    """One episode: something that draws, and the return so far, before each action and at the end."""
    environment = make_environment(description.environment, description.environment_options, render_mode)
    actions = actions_of(environment, description.environment)
    generator = generator_for(seed, "actions")
    total, ended, step = 0.0, False, 0
    try:
        observation, _ = environment.reset(seed=derive_seed(seed, "film") % SEEDS)
        yield environment.render, total
        while not ended and step < LONGEST_EPISODE:
            stop_request.check()
            noise = player.distribution.noise(generator, 1, 1)[0]
            action = player.act(np.asarray(observation, np.float32)[None], noise)
            observation, reward, terminated, truncated, _ = environment.step(actions.for_environment(action)[0])
            total, ended, step = total + float(reward), terminated or truncated, step + 1
            yield environment.render, total
    except gymnasium.error.DependencyNotInstalled as error:
        raise _cannot_be_rendered(description.environment, error) from None
    finally:
        environment.close()


def write_film(path: Path, description: AgentDescription, player: Player, seed: int, speed: float = 1.0) -> float:
    """Write one episode as a GIF, its beginning where it is long; returns the episode's return.

    Raises `TrineError` when the environment cannot be rendered.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendered in memory, where there may be no screen
    rate = _frames_per_second(description)
    every = max(1, round(rate * speed / FILM_FRAMES_PER_SECOND))
    pictures: list[Image.Image] = []
    total = 0.0
    for index, (render, so_far) in enumerate(frames(description, player, seed, "rgb_array")):
        total = so_far
        if index % every == 0 and len(pictures) < LONGEST_FILM:
            pictures.append(_picture(render, description.environment))
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
        raise TrineError(f"{description.environment} cannot be rendered: it has no render mode rgb_array")
    return float(metadata.get("render_fps") or FILM_FRAMES_PER_SECOND)


def _cannot_be_rendered(name: str, error: gymnasium.error.DependencyNotInstalled) -> TrineError:
    return TrineError(f"{name} cannot be rendered: {error}; pip install 'trine[control]' brings it")


def _picture(render: Callable[[], Any], name: str) -> Image.Image:
    try:
        picture = Image.fromarray(render())
    except gymnasium.error.DependencyNotInstalled as error:
        raise _cannot_be_rendered(name, error) from None
    except Exception as error:  # another's code: it may raise anything
        raise TrineError(f"{name} cannot be rendered: {error}") from None
    height = max(1, round(picture.height * FILM_WIDTH / picture.width))
    resized = picture.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS)
    return resized.quantize(FILM_COLOURS, dither=Image.Dither.NONE)
