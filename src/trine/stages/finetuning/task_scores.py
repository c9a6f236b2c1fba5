"""Similarity as a number (GPT-1 on STS-B, Radford et al. 2018, table 4): how far a head's scores go with people's.

The head learns scores in standard deviations from their mean, by squared error. On held-out pairs Pearson's and
Spearman's correlation are printed, beside the share of words that two texts have in common, which costs nothing.
Intervals are 95 %, by bootstrap over groups of examples, also of the difference of two Pearsons on the same examples.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.resampling import Places, bootstrap_intervals
from trine.algorithms.text_correlation import pearson, spearman
from trine.records import TaskExample
from trine.rewards.words import n_grams
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.seeds import generator_for
from trine.stages.finetuning.accuracies import PREDICTIONS, THIS, rows_of_run

SHARED_WORDS = "shared words"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreScale:
    """What scores were before they were standardised."""

    mean: float
    deviation: float

    def __call__(self, label: str) -> float:
        return (float(label) - self.mean) / self.deviation

    def original(self, standardised: float) -> float:
        return self.mean + self.deviation * standardised


def scale_of(examples: Sequence[TaskExample]) -> ScoreScale:
    """Mean and standard deviation of the examples' scores; raises `TrineError` where all are the same."""
    scores = [float(example.label) for example in examples]
    deviation = statistics.pstdev(scores)
    if deviation == 0:
        raise TrineError(f"every example has the score {scores[0]:g}; there is nothing to learn")
    return ScoreScale(statistics.fmean(scores), deviation)


def write_scores(folder: Path, examples: Sequence[TaskExample], scores: Sequence[float]) -> None:
    """Write a line for each held-out example."""
    rows = [
        {"name": example.name, "label": example.label, "predicted": score}
        for example, score in zip(examples, scores, strict=True)
    ]
    write_jsonl(folder / PREDICTIONS, rows)


def correlations(
    examples: Sequence[TaskExample], scores: Sequence[float], compare_with: Path | None, seed: int
) -> dict[str, dict[str, Any]]:
    """The figures of this model's `scores`, of shared words and of another run, as `done.json` has them."""
    others = {SHARED_WORDS: [shared_words(*example.readings[0]) for example in examples]}
    if compare_with is not None:
        name, rows = rows_of_run(compare_with, examples)
        others = {name: [float(row["predicted"]) for row in rows]} | others
    names = {name: place for place, name in enumerate(dict.fromkeys(example.group for example in examples))}
    groups = np.array([names[example.group] for example in examples])
    given, ours = np.array([float(example.label) for example in examples]), np.array(scores, float)
    found = {THIS: _figures(ours, given, groups, seed)}
    for name, theirs in others.items():
        found[name] = _figures(np.array(theirs), given, groups, seed, ours)
    return found


def shared_words(first: str, second: str) -> float:
    """Words that two texts have in common, over the words of either (Jaccard)."""
    ours, theirs = (set(n_grams(text, 1)) for text in (first, second))
    return len(ours & theirs) / max(len(ours | theirs), 1)


def _figures(scores: Floats, given: Floats, groups: Places, seed: int, ours: Floats | None = None) -> dict[str, Any]:
    """Correlations of `scores` with the given ones; with `ours`, how much more `ours` go with them."""

    def figures(places: Places) -> list[float]:
        found = [pearson(scores[places], given[places]), spearman(scores[places], given[places])]
        return found if ours is None else [*found, pearson(ours[places], given[places]) - found[0]]

    names = ("pearson", "spearman", "this_more")
    values = figures(np.arange(len(given)))
    intervals = bootstrap_intervals(figures, groups, generator_for(seed, "correlations"))
    found: dict[str, Any] = {"n": len(given)}
    for name, value, interval in zip(names, values, intervals, strict=False):
        found |= {name: value, f"{name}_interval": None if interval is None else [interval.low, interval.high]}
    return found


def in_words(figures: dict[str, dict[str, Any]]) -> str:
    """The table that is printed: a line for each."""
    width = max(map(len, figures))
    lines = [f"correlation with the scores of {figures[THIS]['n']:,} held-out examples, 95% interval by bootstrap"]
    for name, each in figures.items():
        line = f"  {name:<{width}}  Pearson {_told(each, 'pearson')}  Spearman {_told(each, 'spearman')}"
        lines.append(line + (f"  this model {_told(each, 'this_more', '+')}" if "this_more" in each else ""))
    return "\n".join(lines) + "\n"


def _told(figure: dict[str, Any], name: str, sign: str = "") -> str:
    interval = figure[f"{name}_interval"]
    return f"{figure[name]:{sign}.4f}" + ("" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]")
