"""Statistics of sampled token sequences and of scores."""

import statistics
from collections.abc import Sequence


def distinct_share(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Share of distinct n-grams in all sequences together (Li et al. 2016, distinct-n)."""
    grams = [tuple(sequence[i : i + n]) for sequence in sequences for i in range(len(sequence) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def mean_median_deviation(values: Sequence[float]) -> dict[str, float]:
    """Mean, median and standard deviation (of the population)."""
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "deviation": statistics.pstdev(values),
    }
