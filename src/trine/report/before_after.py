"""Mean and median before and after, and what was gained, each with an interval over prompts.

Intervals are percentiles of the cluster bootstrap (Davison & Hinkley 1997, section 3.8): whole prompts are sampled with
replacement, here as counts, so that all samples are weighted statistics of the same scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.resampling import MIN_GROUPS
from trine.algorithms.statistics import CONFIDENCE, Interval
from trine.report.tables import number, signed

DRAWS = 1000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BeforeAfter:
    """One statistic on both sides, and its gain; intervals are None where prompts are too few."""

    statistic: str
    before: float
    after: float
    before_interval: Interval | None
    after_interval: Interval | None
    gain_interval: Interval | None

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def cells(self) -> tuple[str, ...]:
        """A table's row: statistic, before, after, gain."""
        return (
            self.statistic,
            number(self.before, 2) + _between(self.before_interval),
            number(self.after, 2) + _between(self.after_interval),
            signed(self.gain) + _between(self.gain_interval),
        )


def before_after(
    before: Sequence[float], after: Sequence[float], before_groups: Sequence[int], after_groups: Sequence[int]
) -> list[BeforeAfter]:
    """Mean and median of both sides. `*_groups` number the prompt of each score: where a prompt is on both sides, it is
    sampled with both, so that the interval of a gain is that of paired differences.

    >>> [(each.statistic, each.gain) for each in before_after([0.0, 1.0, 5.0], [1.0, 3.0, 5.0], [0, 1, 2], [0, 1, 2])]
    [('mean', 1.0), ('median', 2.0)]
    """
    groups = np.unique(np.asarray([*before_groups, *after_groups]), return_inverse=True)[1]
    count = int(groups.max()) + 1
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)
    sides = [
        (np.asarray(scores, float), times[:, of_side])
        for scores, of_side in ((before, groups[: len(before)]), (after, groups[len(before) :]))
    ]
    found = []
    for name, statistic in (("mean", _mean), ("median", _median)):
        here = [float(statistic(scores, np.ones((1, len(scores))))[0]) for scores, _ in sides]
        first, second = (statistic(scores, weights) for scores, weights in sides)
        between = [_interval(drawn, count) for drawn in (first, second, second - first)]
        found.append(BeforeAfter(name, here[0], here[1], *between))
    return found


def _mean(scores: Floats, weights: Floats) -> Floats:
    """[D] of scores [N] taken `weights` [D, N] times."""
    total: Floats = weights @ scores
    return total / np.maximum(weights.sum(1), 1.0)


def _median(scores: Floats, weights: Floats) -> Floats:
    """[D]: the middle one, or the mean of the two."""
    order = np.argsort(scores)
    sums = weights[:, order].cumsum(1)
    half = sums[:, -1:] / 2
    middle: Floats = scores[order][(sums >= half).argmax(1)] + scores[order][(sums > half).argmax(1)]
    return middle / 2


def _interval(drawn: Floats, groups: int) -> Interval | None:
    if groups < MIN_GROUPS:
        return None
    low, high = np.quantile(drawn, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
    return Interval(float(low), float(high))


def _between(interval: Interval | None) -> str:
    return f" ({number(interval.low, 2)} to {number(interval.high, 2)})" if interval else ""
