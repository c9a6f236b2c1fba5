"""What is reported of a reward model."""

from math import log

import pytest
import torch

from trine.algorithms.text_ranking import normalization, pair_accuracy, reliability


def test_normalization_gives_mean_zero_and_variance_one() -> None:
    scores = torch.tensor([2.0, 4.0, 9.0])
    gain, offset = normalization(scores)
    scaled = gain * scores + offset
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-6)
    assert float(scaled.var(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_normalization_of_equal_scores_only_shifts() -> None:
    assert normalization(torch.full((3,), 5.0)) == (1.0, -5.0)


def test_a_tie_counts_half_in_accuracy() -> None:
    assert pair_accuracy(torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 5.0])) == 0.625


def test_reliability_counts_every_pair_once_and_compares_prediction_with_outcome() -> None:
    """Margin log 3 predicts 75% and is right once in two."""
    rows = reliability(torch.tensor([log(3), -log(3), 50.0, 0.0]))
    assert sum(count for _, _, count in rows) == 4
    assert (pytest.approx(0.75), 0.5, 2) in rows
    assert rows[-1] == (1.0, 1.0, 1)


def test_a_tie_is_a_prediction_of_one_half_and_is_not_right() -> None:
    """A model that says the same of both sides has ranked nothing."""
    assert reliability(torch.zeros(3)) == [(0.5, 0.0, 3)]


def test_scores_are_scaled_as_soon_as_they_differ_by_more_than_rounding() -> None:
    """Two scores 2 d apart have the deviation d; the limit is 1e-8."""
    for deviation, expected in ((2e-8, 1 / 2e-8), (0.5e-8, 1.0)):
        gain, offset = normalization(torch.tensor([0.0, 2 * deviation], dtype=torch.float64))
        assert gain == pytest.approx(expected)
        assert offset == pytest.approx(-expected * deviation)
