"""How far two figures of the same answers go together."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pearson(first: Floats, second: Floats) -> float:
    """Pearson's correlation [N], [N]; NaN where one of the two is constant.

    >>> round(pearson(np.array([1.0, 2, 3]), np.array([1.0, 2, 4])), 4)
    0.982
    """
    a, b = first - first.mean(), second - second.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip((a @ b) / scale, -1, 1)) if scale > 0 else float("nan")


def average_ranks(values: Floats) -> Floats:
    """[N]: the place of each value in order, from 1; equal values have the mean of their places.

    >>> average_ranks(np.array([3.0, 1, 3])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[places]
    return ranks


def spearman(first: Floats, second: Floats) -> float:
    """Spearman's correlation: Pearson's of the ranks; NaN where one of the two is constant."""
    return pearson(average_ranks(first), average_ranks(second))


def explained_share(values: Floats, causes: Floats) -> float:
    """The share of the variance of `values` [N] that a line in `causes` [N, K] explains, corrected for its freedom.

    >>> x = np.array([-2.0, -1, 0, 1, 2])
    >>> round(explained_share(x * x, np.stack((x, x * x), 1)), 6)
    1.0

    NaN where `values` are constant or too few.
    """
    count, freedom = causes.shape
    deviations = values - values.mean()
    total = float(deviations @ deviations)
    if count < freedom + 3 or total <= 0:
        return float("nan")
    design = causes - causes.mean(0)
    rest = deviations - design @ np.linalg.lstsq(design, deviations, rcond=None)[0]
    unexplained = float(rest @ rest) / total * (count - 1) / (count - freedom - 1)
    return max(0.0, 1.0 - unexplained)


def centred_within(values: Floats, groups: NDArray[np.int64]) -> Floats:
    """`values` [N] less the mean of their group; `groups` [N] numbers them from 0.

    >>> centred_within(np.array([1.0, 3, 5]), np.array([0, 0, 1])).tolist()
    [-1.0, 1.0, 0.0]
    """
    means = np.bincount(groups, values) / np.maximum(np.bincount(groups), 1)
    result: Floats = values - means[groups]
    return result


def concordance(first: Floats, second: Floats) -> float:
    """Of the pairs of places [N] that both put in an order, the share that both put in the same one; NaN without any.

    >>> round(concordance(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])), 3)
    0.667

    Half is chance: (1 + Kendall's tau) / 2 where no values are equal.
    """
    above = np.triu_indices(len(first), 1)
    signs = [np.sign(np.subtract.outer(values, values)[above]) for values in (first, second)]
    both = signs[0] * signs[1]
    ordered = int(np.count_nonzero(both))
    return float((both > 0).sum() / ordered) if ordered else float("nan")
