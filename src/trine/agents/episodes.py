"""Evaluation of a trained agent: returns of complete episodes, and a film of one."""

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from PIL import Image

from trine.agents.contract import Contract
from trine.agents.environments import SEEDS, Environments, Episode, make_environment
from trine.agents.folder import AgentDescription, Player, check_fits
from trine.agents.spaces import actions_of
from trine.runtime.errors import TrineError
from trine.runtime.files import write_bytes
from trine.runtime.seeds import derive_seed, generator_for
from trine.runtime.signals import stop_request

SIDE_BY_SIDE = 20
MAX_EPISODE_STEPS = 50_000
"""An environment whose episodes do not end cannot be evaluated by episodes."""
BLOCK = 256
"""Number of steps for which noise is sampled at once."""
FILM_WIDTH, FILM_COLOURS = 300, 32
FILM_FRAMES_PER_SECOND = 20
MAX_FILM_FRAMES = 300
"""The film is embedded in the report."""


def play_episodes(
    description: AgentDescription, player: Player, count: int, seed: int, *, may_stop: bool = True
) -> list[Episode]:
    """Play `count` new episodes, each seeded by (seed, copy, episode).

    Which episodes count is decided before they are played: taking the first to end would favour short ones. With
    unsaved work `may_stop` is False, and the caller handles signals. Raises `TrineError` if an episode does not end.
    """
    copies = min(SIDE_BY_SIDE, count)
    environments = Environments(
        description.environment, description.environment_options, copies, seed,
        scaled_actions=description.scaled_actions,
    )  # fmt: skip
    try:
        check_fits(description, environments)
        return _first_episodes(description.environment, environments, player, count, seed, may_stop)
    finally:
        environments.close()


def _first_episodes(
    name: str, environments: Environments, player: Player, count: int, seed: int, may_stop: bool
) -> list[Episode]:
    """The first episodes of each copy, `count` in all."""
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
    if environments.elapsed().max() > MAX_EPISODE_STEPS:
        raise TrineError(
            f"{name}: an episode did not end within {MAX_EPISODE_STEPS:,} steps, so the agent cannot be "
            "evaluated; register the environment with a smaller max_episode_steps"
        )


def frames(description: AgentDescription, player: Player, seed: int, render_mode: str) -> Iterator[tuple[Any, float]]:
    """One episode: yields (function that renders a frame, return so far) before each action and at the end."""
    environment = make_environment(description.environment, description.environment_options, render_mode)
    actions = actions_of(environment, description.environment, scaled=description.scaled_actions)
    contract = Contract(description.environment, description.observations)
    generator = generator_for(seed, "actions")
    total, ended, step = 0.0, False, 0
    try:
        observation = contract.reset(environment, derive_seed(seed, "film") % SEEDS, lambda: "reset")
        yield environment.render, total
        while not ended and step < MAX_EPISODE_STEPS:
            stop_request.check()
            noise = player.distribution.noise(generator, 1, 1)[0]
            action = actions.for_environment(player.act(observation[None], noise))[0]
            step += 1
            observation, reward, terminated, truncated = contract.step(
                environment, action, partial("step {}".format, step)
            )
            total, ended = total + reward, terminated or truncated
            yield environment.render, total
    except TrineError as error:
        if isinstance(error.__cause__, gymnasium.error.DependencyNotInstalled):  # a window is opened by reset and step
            raise _cannot_be_rendered(description.environment, error.__cause__) from None
        raise
    finally:
        environment.close()


def write_film(path: Path, description: AgentDescription, player: Player, seed: int, speed: float = 1.0) -> float:
    """Write one episode as a GIF of at most `MAX_FILM_FRAMES` frames; returns the episode's return.

    Raises `TrineError` if the environment cannot be rendered.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # render in memory: there may be no screen
    rate = _frames_per_second(description)
    every = max(1, round(rate * speed / FILM_FRAMES_PER_SECOND))
    pictures: list[Image.Image] = []
    total = 0.0
    for index, (render, so_far) in enumerate(frames(description, player, seed, "rgb_array")):
        total = so_far
        if index % every == 0 and len(pictures) < MAX_FILM_FRAMES:
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
    return TrineError(f"{name} cannot be rendered: {error}; pip install 'trine[control]'")


def _picture(render: Callable[[], Any], name: str) -> Image.Image:
    try:
        picture = Image.fromarray(render())
    except gymnasium.error.DependencyNotInstalled as error:
        raise _cannot_be_rendered(name, error) from None
    except Exception as error:  # third-party code may raise anything
        raise TrineError(f"{name} cannot be rendered: {error}") from None
    height = max(1, round(picture.height * FILM_WIDTH / picture.width))
    resized = picture.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS)
    return resized.quantize(FILM_COLOURS, dither=Image.Dither.NONE)
