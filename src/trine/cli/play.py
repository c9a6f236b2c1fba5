"""`trine control play RUN`: episodes of a trained agent, their returns on standard output, a film or a window."""

import sys

from trine.agents.episodes import frames, play_episodes, write_film
from trine.config.control import PlayConfig
from trine.runtime.progress import say
from trine.stages.control.results import FILM, open_player, summary, words


def play(config: PlayConfig) -> None:
    """Play, print one return a line, then their mean and deviation."""
    description, player = open_player(config.run, deterministic=config.deterministic)
    if config.show == "window":
        totals = [_watch(config, episode) for episode in range(config.episodes)]
        sys.stdout.writelines(f"{total:.1f}\n" for total in totals)
        return
    episodes = play_episodes(description, player, config.episodes, config.seed)
    sys.stdout.writelines(f"{episode.total:.1f}\n" for episode in episodes)
    say(f"{description.environment}: {config.episodes} episodes, return {words(summary(episodes))}")
    if config.show == "film":
        path = config.film or config.run / FILM
        total = write_film(path, description, player, config.seed, config.speed)
        say(f"film of one more episode, return {total:.1f}: {path}")


def _watch(config: PlayConfig, episode: int) -> float:
    """One episode on the screen; its return."""
    description, player = open_player(config.run, deterministic=config.deterministic)
    return list(frames(description, player, config.seed + episode, "human"))[-1][1]
