"""How good a score is at telling yes from no: accuracy, ranking, and whether its probabilities are true ones.

`log_odds` [N] are scores whose sigmoid is the probability of a yes, `labels` [N] are 0 and 1. Brier 1950; expected
calibration error over bins of equal width (Naeini et al. 2015); temperature scaling (Guo et al. 2017).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.text_correlation import average_ranks

Floats = NDArray[np.float64]
BINS = 10
COLDEST, HOTTEST = 1 / 64, 64.0
"""The range of a fitted temperature: where all labels are told right, none is cold enough."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Of the answers whose probability lies in one bin: their mean probability, the share of yes, how many."""

    probability: float
    share: float
    count: int


def sigmoid(log_odds: Floats) -> Floats:
    """1 / (1 + exp(-x)), which never overflows."""
    small = np.exp(-np.abs(log_odds))
    result: Floats = np.where(log_odds >= 0, 1.0, small) / (1.0 + small)
    return result


def label_loss(log_odds: Floats, labels: Floats) -> float:
    """Mean of -log of the probability that the label has, in nats; log 2 is chance. A label may be a share, as of ties.

    >>> round(label_loss(np.array([2.0, -1.0]), np.array([1.0, 0.0])), 6)
    0.220095
    """
    return float(label_losses(log_odds, labels).mean())


def label_losses(log_odds: Floats, labels: Floats) -> Floats:
    """[N]: -y log sigmoid(s) - (1 - y) log sigmoid(-s)."""
    result: Floats = labels * np.logaddexp(0.0, -log_odds) + (1 - labels) * np.logaddexp(0.0, log_odds)
    return result


def right_labels(log_odds: Floats, labels: Floats) -> Floats:
    """[N]: 1 where the score is on its label's side of 0, 1/2 where it is 0, else 0."""
    result: Floats = np.where(log_odds == 0, 0.5, (log_odds > 0) == (labels > 0.5)).astype(np.float64)
    return result


def brier(probabilities: Floats, labels: Floats) -> float:
    """Mean squared error of the probabilities: 0 is perfect, 0.25 is what 1/2 for all has."""
    return float(np.square(probabilities - labels).mean())


def auc(scores: Floats, labels: Floats) -> float:
    """The probability that a yes scores higher than a no, ties counting half; NaN where there are none of either.

    >>> auc(np.array([2.0, 1, -1, 3, -2, 0.5]), np.array([1.0, 0, 0, 1, 1, 1]))
    0.625

    By the ranks of the scores (Mann & Whitney 1947).
    """
    yes = labels > 0.5
    positives, negatives = int(yes.sum()), int((~yes).sum())
    if not positives or not negatives:
        return float("nan")
    above = average_ranks(scores)[yes].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def reliability_bins(probabilities: Floats, labels: Floats, bins: int = BINS) -> list[ReliabilityBin]:
    """The bins of equal width that hold something, from low to high; a value on an edge belongs to the upper bin."""
    which = np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1])
    return [
        ReliabilityBin(float(probabilities[inside].mean()), float(labels[inside].mean()), int(inside.sum()))
        for inside in (which == number for number in range(bins))
        if inside.any()
    ]


def calibration_error(probabilities: Floats, labels: Floats, bins: int = BINS) -> float:
    """Expected calibration error: how far probabilities are from shares of yes, over the bins, each by what it holds.

    Noise alone makes it larger than 0: `calibration_error_by_chance` says by how much.
    """
    found = reliability_bins(probabilities, labels, bins)
    return sum(each.count * abs(each.probability - each.share) for each in found) / max(len(labels), 1)


def calibration_error_by_chance(
    probabilities: Floats, generator: np.random.Generator, bins: int = BINS, draws: int = 100
) -> float:
    """The mean calibration error if every probability were true: labels are sampled from them, `draws` times."""
    size = (draws, len(probabilities))
    sampled = (generator.random(size) < probabilities).astype(np.float64)
    return float(np.mean([calibration_error(probabilities, labels, bins) for labels in sampled]))


def fit_temperature(log_odds: Floats, labels: Floats) -> float:
    """The temperature t for which sigmoid(log_odds / t) has the least `label_loss`: above 1 they were too sure.

    >>> round(fit_temperature(np.array([2.0, 2, 2, 2, -2]), np.array([1.0, 1, 1, 0, 0])), 3)
    1.443

    The loss is convex in 1 / t; its slope is bisected. Within `COLDEST` and `HOTTEST`.
    """

    def slope(inverse: float) -> float:
        return float(((sigmoid(inverse * log_odds) - labels) * log_odds).sum())

    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(float(np.exp(middle))) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))
