"""Statistics of sampled sequences and of scores."""

import pytest

from trine.algorithms.text_statistics import distinct_share, mean_median_deviation


def test_the_deviation_of_scores_is_the_populations() -> None:
    """Of n, not n - 1: of a single score it is 0."""
    assert mean_median_deviation([1.0, 3.0, 8.0]) == {
        "mean": 4.0,
        "median": 3.0,
        "deviation": pytest.approx((26 / 3) ** 0.5),
    }
    assert mean_median_deviation([5.0])["deviation"] == 0.0


def test_distinct_share_counts_each_n_gram_once_over_all_sequences() -> None:
    assert distinct_share([[1, 2, 3], [1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct_share([[1], []], 2) == 0.0
