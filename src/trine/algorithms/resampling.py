"""Intervals of figures that are no means: the cluster bootstrap (Efron 1979; Davison & Hinkley 1997, section 3.8).

Groups (prompts, films) are the independent ones, so whole groups are sampled with replacement.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.statistics import CONFIDENCE, Interval

DRAWS = 300
MIN_GROUPS = 5
Places = NDArray[np.int64]


def bootstrap_intervals(
    figures: Callable[[Places], Sequence[float]],
    groups: Places,
    generator: np.random.Generator,
    *,
    reflected: Sequence[bool] = (),
    confidence: float = CONFIDENCE,
) -> list[Interval | None]:
    """The interval of each of `figures`, computed of the items at some places; `groups` [N] numbers the groups.

    Percentiles of what samples of as many groups give; of figures that noise makes larger, such as a calibration
    error, these are `reflected` at the figure itself (the basic bootstrap), and no less than 0. None where there are
    fewer than `MIN_GROUPS` groups, or where a figure has no value in a tenth of the samples or more.
    """
    count = int(groups.max(initial=-1)) + 1
    here = np.asarray(figures(np.arange(len(groups))), float)
    if count < MIN_GROUPS:
        return [None] * len(here)
    drawn = np.asarray([figures(_resampled(groups, count, generator)) for _ in range(DRAWS)], float)
    flags = reflected or [False] * len(here)
    return [
        _interval(column, value, flag, confidence) for column, value, flag in zip(drawn.T, here, flags, strict=True)
    ]


def _resampled(groups: Places, count: int, generator: np.random.Generator) -> Places:
    """The places of the items of `count` groups sampled with replacement."""
    times = np.bincount(generator.integers(count, size=count), minlength=count)
    return np.repeat(np.arange(len(groups)), times[groups])


def _interval(values: NDArray[np.float64], here: float, reflected: bool, confidence: float) -> Interval | None:
    known = values[np.isfinite(values)]
    if len(known) <= 0.9 * len(values) or not np.isfinite(here):
        return None
    low, high = (float(each) for each in np.quantile(known, (0.5 - confidence / 2, 0.5 + confidence / 2)))
    return Interval(max(0.0, 2 * here - high), max(0.0, 2 * here - low)) if reflected else Interval(low, high)
