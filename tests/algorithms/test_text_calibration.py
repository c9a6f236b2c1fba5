"""Figures of a score against labels: golden vector F6, and what they have to be in worlds where it is known."""

import numpy as np
import pytest

from trine.algorithms.text_calibration import (
    HOTTEST,
    auc,
    brier,
    calibration_error,
    calibration_error_by_chance,
    fit_temperature,
    label_loss,
    reliability_bins,
    right_labels,
    sigmoid,
)
from trine.algorithms.text_correlation import centred_within, explained_share, pearson, spearman

LOG_ODDS = np.array([2.0, 1.0, -1.0, 3.0, -2.0, 0.5])
LABELS = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])


def test_golden_vector_f6() -> None:
    probabilities = sigmoid(LOG_ODDS)
    assert label_loss(LOG_ODDS, LABELS) == pytest.approx(0.733841, abs=1e-6)
    assert brier(probabilities, LABELS) == pytest.approx(0.256929, abs=1e-6)
    assert right_labels(LOG_ODDS, LABELS).mean() == pytest.approx(0.666667, abs=1e-6)
    assert auc(LOG_ODDS, LABELS) == 0.625
    assert calibration_error(probabilities, LABELS, bins=5) == pytest.approx(0.278314, abs=1e-6)


def test_auc_is_the_share_of_pairs_in_order_with_ties_as_half() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.integers(6, size=40).astype(float), generator.integers(2, size=40).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(auc(scores, np.ones(40)))


def test_a_score_of_zero_is_half_right_and_one_of_a_thousand_is_no_overflow() -> None:
    assert right_labels(np.array([0.0, 1000.0]), np.array([1.0, 1.0])).tolist() == [0.5, 1.0]
    with np.errstate(over="raise", invalid="raise"):
        assert sigmoid(np.array([-800.0, 800.0])).tolist() == [0.0, 1.0]
    assert label_loss(np.array([1000.0]), np.array([0.0])) == 1000.0


def test_the_bins_hold_everything_once_edges_too() -> None:
    probabilities = np.array([0.0, 0.1, 0.5, 0.95, 1.0])
    bins = reliability_bins(probabilities, np.array([0.0, 1, 1, 1, 0]))
    assert sum(each.count for each in bins) == 5
    assert [each.count for each in bins] == [1, 1, 1, 2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_planted_is_found_and_mends_the_calibration(temperature: float) -> None:
    generator = np.random.default_rng(1)
    true = 2 * generator.standard_normal(20_000)
    labels = (generator.random(20_000) < sigmoid(true)).astype(float)
    said = true * temperature
    assert fit_temperature(said, labels) == pytest.approx(temperature, rel=0.06)
    mended = calibration_error(sigmoid(said / temperature), labels)
    chance = calibration_error_by_chance(sigmoid(said / temperature), generator, draws=20)
    assert mended < 2.5 * chance
    if temperature != 1.0:
        assert calibration_error(sigmoid(said), labels) > 10 * chance


def test_where_every_label_is_told_wrong_no_temperature_is_hot_enough() -> None:
    assert fit_temperature(np.array([1.0, -1.0]), np.array([0.0, 1.0])) == pytest.approx(HOTTEST)
    assert fit_temperature(np.array([1.0, -1.0]), np.array([1.0, 0.0])) == pytest.approx(1 / 64)


def test_correlations_see_order_and_lines() -> None:
    x = np.arange(1.0, 30.0)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert pearson(x, np.exp(x)) < 0.6
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1.0)
    assert np.isnan(spearman(x, np.ones_like(x)))


def test_spearman_shares_the_ranks_of_equal_values() -> None:
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(0.948683, abs=1e-6)


def test_a_parabola_is_explained_and_noise_is_not() -> None:
    generator = np.random.default_rng(2)
    cause = generator.standard_normal(500)
    parabola = np.stack((cause, cause**2), 1)
    assert explained_share((cause - 1) ** 2, parabola) == pytest.approx(1.0)
    assert explained_share(generator.standard_normal(500), parabola) < 0.02
    assert explained_share(cause, np.ones((500, 1))) == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(explained_share(np.ones(500), parabola))


def test_what_is_left_within_groups_has_mean_zero_in_each() -> None:
    left = centred_within(np.array([1.0, 5.0, 2.0, 2.0]), np.array([0, 0, 1, 2]))
    assert left.tolist() == [-2.0, 2.0, 0.0, 0.0]
