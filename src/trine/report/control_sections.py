"""The section on control tasks: the runs of one environment together, a curve for each algorithm over its seeds."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from trine.report.plots import Band, Colour, Line, line_plot
from trine.report.ppo_sections import APPROXIMATE_KL, EXPLAINED_VARIANCE
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Film, Plot, Section
from trine.report.tables import ABSENT, Table, number, whole

BINS = 50
COLOURS: tuple[Colour, ...] = ("before", "accent", "after", "person", "ink")
"""One for each algorithm; where there are more groups than algorithms, by number."""
THOUSAND = 1000
# Runs that differ by these alone are one group.
NOT_SETTINGS = ("out", "seed", "overwrite", "resume", "loop", "hardware", "film", "evaluation_episodes")
STEPS = "thousand environment steps"
ALGORITHMS = {"reinforce": "REINFORCE", "actor_critic": "actor-critic", "ppo": "PPO"}
# Key of the metrics, vertical axis, caption.
CURVES = (
    ("entropy", "entropy, nats", "Entropy of the policy: 0 is a deterministic one."),
    ("explained_variance", "explained variance", EXPLAINED_VARIANCE),
    ("approximate_kl", "approximate KL, nats", APPROXIMATE_KL),
    (
        "clip_fraction",
        "clip fraction",
        "Clip fraction: share of steps with a clipped ratio. Up to about 0.2 is usual.",
    ),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone."""

    label: str
    runs: list[FinishedStage]
    colour: Colour


def control_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """All runs in the environment of `run`: the section of the first of them; empty for the others."""
    environment = str(run.config.get("environment"))
    alike = [other for other in recipe.of_stage(run.stage) if other.config.get("environment") == environment]
    if alike[0] is not run:
        return Section(environment, "")
    groups = _groups(alike)
    words = (
        "An episode's return is the sum of its rewards. The curves are the episodes of training, played by the "
        "stochastic policy: the mean over seeds, and one standard deviation to each side. The table is of new episodes "
        "after training, played by the stochastic and by the deterministic policy (most likely action); ± is the "
        "standard deviation over seeds of their means."
    )
    return Section(environment, words, [_table(groups)], _plots(environment, groups), films=_films(groups))


def _groups(runs: Sequence[FinishedStage]) -> list[Group]:
    """By algorithm; where settings differ too, by the names of the runs without the number of the seed."""
    by_settings: dict[str, list[FinishedStage]] = {}
    order = [*ALGORITHMS]
    for run in sorted(runs, key=lambda run: order.index(_algorithm(run))):
        settings = {key: value for key, value in run.config.items() if key not in NOT_SETTINGS}
        by_settings.setdefault(repr(sorted(settings.items())), []).append(run)
    names = [_algorithm(alike[0]) for alike in by_settings.values()]
    groups = []
    for index, (name, alike) in enumerate(zip(names, by_settings.values(), strict=True)):
        alone = names.count(name) == 1
        label = ALGORITHMS[name] if alone else alike[0].name.rstrip("0123456789").rstrip("-")
        plain = len(names) <= len(order) and len(set(names)) == len(names)
        groups.append(Group(label, alike, COLOURS[order.index(name) if plain else index % len(COLOURS)]))
    return groups


def _algorithm(run: FinishedStage) -> str:
    return str(run.config.get("algorithm", "ppo"))


def _table(groups: Sequence[Group]) -> Table:
    rows = [
        (
            group.label,
            whole(len(group.runs)),
            whole(group.runs[0].results.get("environment_steps")),
            _returns(group, "sampled"),
            _returns(group, "deterministic"),
            whole(fmean(_speeds(group))) if _speeds(group) else ABSENT,
        )
        for group in groups
    ]
    counts = {len(run.results.get("sampled", {}).get("returns", ())) for group in groups for run in group.runs}
    caption = f"Mean return of {'/'.join(map(str, sorted(counts)))} new episodes of each run." if any(counts) else ""
    return Table(
        ("algorithm", "seeds", "steps", "stochastic policy", "deterministic policy", "steps/s"),
        rows,
        caption,
        title="Returns after training",
        open=True,
    )


def _returns(group: Group, kind: str) -> str:
    means = [run.results[kind]["return_mean"] for run in group.runs if kind in run.results]
    if not means:
        return ABSENT
    return number(means[0], 1) if len(means) == 1 else f"{number(fmean(means), 1)} ± {number(pstdev(means), 1)}"


def _speeds(group: Group) -> list[float]:
    """Environment steps a second, updates included, of each run."""
    return [
        float(run.metrics[-1]["environment_steps"]) / sum(float(row.get("seconds", 0.0)) for row in run.metrics)
        for run in group.runs
        if run.metrics and "environment_steps" in run.metrics[-1]
    ]


def _plots(environment: str, groups: Sequence[Group]) -> list[Plot]:
    curves = [_curve(group, "episode_return", lambda row: float(row["episodes"])) for group in groups]
    lines = [Line(x, mean, group.label, group.colour) for group, (x, mean, _) in zip(groups, curves, strict=True)]
    bands = [
        Band(x, (np.array(mean) - deviation).tolist(), (np.array(mean) + deviation).tolist(), group.colour)
        for group, (x, mean, deviation) in zip(groups, curves, strict=True)
        if len(group.runs) > 1
    ]
    says = f"{environment}: return over environment steps"
    lines = [line for line in lines if line.x]
    svg = line_plot(lines, STEPS, "episode return", says, bands=bands) if lines else None
    plots = [Plot(svg, "Returns in training.", leading=True)] if svg is not None else []
    for key, y_label, caption in CURVES:
        curves_of_key = [(group, _curve(group, key, lambda row: 1.0)) for group in groups]
        lines = [Line(x, mean, group.label, group.colour) for group, (x, mean, _) in curves_of_key if x]
        if lines:
            svg = line_plot(lines, STEPS, y_label, f"{environment}: {key}", compact=True)
            plots.append(Plot(svg, caption))
    return plots


def _curve(
    group: Group, key: str, weight: Callable[[dict[str, Any]], float]
) -> tuple[list[float], list[float], list[float]]:
    """Environment steps, mean and deviation of `key` over the runs, in at most `BINS` bins that all runs reach."""
    runs = [[row for row in run.metrics if key in row and "environment_steps" in row] for run in group.runs]
    runs = [rows for rows in runs if rows]
    if not runs:
        return [], [], []
    end = min(rows[-1]["environment_steps"] for rows in runs)
    edges = np.linspace(0, end, min(BINS, *(len(rows) for rows in runs)) + 1)
    binned = np.array([_binned(rows, key, weight, edges) for rows in runs])
    known = np.isfinite(binned).all(0)
    x = (edges[1:][known] / THOUSAND).tolist()
    return x, binned.mean(0)[known].tolist(), binned.std(0)[known].tolist()


def _binned(
    rows: Sequence[dict[str, Any]], key: str, weight: Callable[[dict[str, Any]], float], edges: Any
) -> list[float]:
    """The weighted mean in each bin; an empty bin repeats the one before."""
    steps = np.array([float(row["environment_steps"]) for row in rows])
    values = np.array([float(row[key]) for row in rows])
    weights = np.array([weight(row) for row in rows])
    means: list[float] = []
    for low, high in pairwise(edges):
        inside = (steps > low) & (steps <= high)
        held = means[-1] if means else float("nan")
        means.append(float(np.average(values[inside], weights=weights[inside])) if inside.any() else held)
    return means


def _films(groups: Sequence[Group]) -> list[Film]:
    """One of each group: of the run whose deterministic policy has the highest return."""
    films = []
    for group in groups:
        filmed = [run for run in group.runs if (run.folder / "film.gif").exists()]
        if filmed:
            best = max(filmed, key=lambda run: run.results.get("deterministic", {}).get("return_mean", 0.0))
            data = base64.b64encode((best.folder / "film.gif").read_bytes()).decode()
            films.append(Film(f"data:image/gif;base64,{data}", f"{group.label}: an episode of {best.name}"))
    return films
