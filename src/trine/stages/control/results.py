"""Evaluation of a trained agent: returns of fresh episodes, with sampled and deterministic actions; and a video."""

from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from trine.agents.environments import Episode
from trine.agents.episodes import play_episodes, write_film
from trine.agents.folder import AgentDescription, Player, load_agent
from trine.runtime.errors import TrineError
from trine.runtime.progress import say

FILM = "film.gif"


def open_player(run: Path, *, deterministic: bool) -> tuple[AgentDescription, Player]:
    """The agent of a run, ready to play."""
    description, agent, moments = load_agent(run)
    return description, Player(agent, moments, description.distribution, deterministic=deterministic)


def evaluate_agent(run: Path, episodes: int, seed: int) -> dict[str, Any]:
    """Returns of `episodes` fresh episodes of each kind: mean, deviation, and all; none where they do not end."""
    results: dict[str, Any] = {}
    for kind in ("sampled", "deterministic") if episodes else ():
        try:
            description, player = open_player(run, deterministic=kind == "deterministic")
            results[kind] = summary(play_episodes(description, player, episodes, seed))
            say(f"   {episodes} fresh episodes, {kind} actions: return {words(results[kind])}")
        except TrineError as error:
            say(f"   {kind} actions not measured: {error}", style="yellow")
    return results


def summary(episodes: list[Episode]) -> dict[str, Any]:
    """Mean and deviation of returns, mean length, and every return."""
    totals = [episode.total for episode in episodes]
    return {
        "return_mean": fmean(totals),
        "return_deviation": pstdev(totals),
        "length_mean": fmean(episode.length for episode in episodes),
        "returns": totals,
    }


def words(results: dict[str, Any]) -> str:
    return f"{results['return_mean']:.1f} ± {results['return_deviation']:.1f}"


def film_agent(run: Path, seed: int) -> None:
    """Write a video into the run folder if the environment can be rendered; say why if it cannot."""
    try:
        write_film(run / FILM, *open_player(run, deterministic=True), seed)
    except TrineError as error:
        say(f"   no film: {error}", style="yellow")
