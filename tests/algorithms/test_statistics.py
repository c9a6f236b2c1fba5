"""Intervals, tests and estimators against the golden vectors E1 to E5, and against what they have to be."""

import itertools
import math
import random

import pytest

from trine.algorithms.statistics import (
    Interval,
    clustered_estimate,
    grouped_mean,
    grouped_share,
    mcnemar_p_value,
    mean_estimate,
    paired_difference,
    pass_at_k,
    share_estimate,
    student_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 5, 0.916667),
        (10, 3, 10, 1.0),
        (10, 0, 5, 0.0),
        (200, 1, 100, 0.5),
        (4, 2, 2, 0.833333),
    ],
)
def test_golden_e1_pass_at_k_is_unbiased(samples: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-6)


def test_pass_at_k_is_the_mean_over_all_sets_of_k_samples() -> None:
    right = [True, False, True, False, False, True, False]
    for k in range(1, 8):
        sets = list(itertools.combinations(right, k))
        assert pass_at_k(7, 3, k) == pytest.approx(sum(map(any, sets)) / len(sets))


@pytest.mark.parametrize(("samples", "correct", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be_estimated(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"1 <= k <= samples"):
        pass_at_k(samples, correct, k)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(7, 10, 0.396778, 0.892209), (0, 20, 0, 0.161125), (20, 20, 0.838875, 1), (900, 1000, 0.879848, 0.917091)],
)
def test_golden_e2_wilson(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, trials)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(successes, trials)


def test_golden_e3_exact_mcnemar() -> None:
    assert mcnemar_p_value(3, 12) == mcnemar_p_value(12, 3) == pytest.approx(0.035156, abs=1e-6)
    assert mcnemar_p_value(10, 10) == mcnemar_p_value(0, 0) == 1.0


def test_mcnemar_of_thousands_of_items_is_still_exact() -> None:
    assert mcnemar_p_value(5000, 5000) == 1.0
    assert mcnemar_p_value(4900, 5100) == pytest.approx(0.04658, abs=1e-4)  # R: binom.test(4900, 10000)
    assert 0 <= mcnemar_p_value(0, 5000) < 1e-300


def test_golden_e4_paired_error() -> None:
    difference = paired_difference([1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 0, 1])
    assert difference.mean == pytest.approx(0.333333, abs=1e-6)
    assert difference.error == pytest.approx(0.210819, abs=1e-6)
    assert difference.tied


def test_golden_e5_clustered_by_prompt() -> None:
    groups = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert clustered_estimate(groups).error == pytest.approx(0.288675, abs=1e-6)
    assert share_estimate(groups).error == pytest.approx(0.288675, abs=1e-6)
    # Three prompts that know their answer are three trials, not twelve.
    assert share_estimate(groups).interval == wilson_interval(1.5, 3)


def test_the_interval_of_a_share_with_one_sample_each_is_wilsons() -> None:
    assert share_estimate([[1]] * 7 + [[0]] * 3).interval == wilson_interval(7, 10)


def test_items_that_all_agree_still_have_an_interval() -> None:
    assert share_estimate([[1, 1, 1, 1]] * 20).interval == wilson_interval(20, 20)


def test_samples_that_are_independent_count_each() -> None:
    """Items alike, samples at random: the interval is near that of so many independent trials, never narrower."""
    coins = random.Random(1)
    groups = [[float(coins.random() < 0.4) for _ in range(5)] for _ in range(400)]
    interval = share_estimate(groups).interval
    assert interval is not None
    independent = wilson_interval(sum(map(sum, groups)), 2000)
    assert interval.high - interval.low == pytest.approx(independent.high - independent.low, rel=0.1)
    assert interval.high - interval.low >= independent.high - independent.low - 1e-12


def test_intervals_hold_the_truth_in_95_of_100_cases() -> None:
    coins = random.Random(2)
    shares = [share_estimate([[float(coins.random() < 0.3)] for _ in range(40)]) for _ in range(2000)]
    means = [mean_estimate([coins.gauss(2.0, 1.0) for _ in range(6)]) for _ in range(2000)]
    cells = [coins.choices(((1, 1), (1, 0), (0, 1), (0, 0)), (4, 1, 3, 2), k=40) for _ in range(2000)]
    changes = [paired_difference([a for a, _ in each], [b for _, b in each]) for each in cells]
    for estimates, truth in ((shares, 0.3), (means, 2.0), (changes, 0.2)):
        held = sum(each.interval is not None and each.interval.holds(truth) for each in estimates)
        assert 0.93 <= held / 2000 <= 0.985


def test_a_weighted_mean_is_a_ratio() -> None:
    """Bits per byte: all bits over all bytes, not the mean of the texts' figures; its error by the delta method."""
    bits, sizes = [10.0, 60.0, 20.0], [10, 30, 20]
    estimate = mean_estimate([b / s for b, s in zip(bits, sizes, strict=True)], sizes)
    assert estimate.mean == pytest.approx(90 / 60)
    residuals = [b - 1.5 * s for b, s in zip(bits, sizes, strict=True)]
    assert estimate.error == pytest.approx(math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 60)
    assert mean_estimate([1.0, 2.0, 4.0], [7, 7, 7]).error == pytest.approx(mean_estimate([1.0, 2.0, 4.0]).error)


def test_one_item_has_a_mean_and_no_interval() -> None:
    assert mean_estimate([2.0]).interval is None
    assert paired_difference([1.0], [0.0]).tied


def test_no_items_are_refused() -> None:
    for refused in (
        lambda: mean_estimate([]),
        lambda: clustered_estimate([[1.0], []]),
        lambda: mean_estimate([1], [0]),
    ):
        with pytest.raises(ValueError, match=r"no items|without samples|positive"):
            refused()


def shares(both: int, first_only: int, second_only: int, neither: int) -> tuple[list[float], list[float]]:
    pairs = [(1.0, 1.0)] * both + [(1.0, 0.0)] * first_only + [(0.0, 1.0)] * second_only + [(0.0, 0.0)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292)],
)
def test_newcombes_intervals(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    """Newcombe 1998, "Improved confidence intervals ... paired data", table II, method 10: first minus second."""
    second, first = shares(*counts)
    interval = paired_difference(first, second).interval
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))


def test_a_tie_is_what_mcnemar_does_not_reject() -> None:
    """5 against 0 of 100: p = 0.0625. The paired error alone would call it a difference."""
    first, second = shares(95, 0, 5, 0)
    difference = paired_difference(first, second)
    assert difference.p_value == 0.0625
    assert difference.error is not None
    assert difference.mean - 1.98 * difference.error > 0
    assert difference.interval is not None
    assert difference.interval.low <= 0.0
    assert difference.tied
    assert not paired_difference(*shares(92, 0, 8, 0)).tied


def test_no_difference_in_a_few_items_is_no_certainty() -> None:
    """5 items that both get wrong: the paired error is 0, and the interval is wide."""
    interval = paired_difference(*shares(0, 0, 0, 5)).interval
    assert interval is not None
    assert interval.high == -interval.low > 0.4


def test_a_model_against_itself_is_tied() -> None:
    assert paired_difference([0.5, 0.25, 1.0], [0.5, 0.25, 1.0]).interval == Interval(0.0, 0.0)
    assert paired_difference([0.5, 0.25, 1.0], [0.5, 0.25, 1.0]).tied


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (1000, 1.9623)]
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, rel=2e-3)


def test_a_grouped_mean_is_the_plain_mean_with_the_error_of_the_groups() -> None:
    values, groups = [1.0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]
    alike, apart = grouped_mean(values, groups), grouped_mean(values, list(range(8)))
    assert alike.mean == apart.mean == 0.5
    assert alike.error is not None and apart.error is not None and alike.error > 2 * apart.error
    assert grouped_mean([1.0, 2.0, 6.0], [0, 0, 1]).mean == 3.0


def test_a_grouped_share_is_wilsons_for_as_many_trials_as_the_groups_allow() -> None:
    assert grouped_share([1, 0, 1, 1], [0, 1, 2, 3]).interval == wilson_interval(3, 4)
    assert grouped_share([1, 1, 1, 1], [0, 0, 1, 1]).interval == wilson_interval(2, 2)
    values, groups = [1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]
    wide, narrow = grouped_share(values, groups).interval, grouped_share(values, list(range(8))).interval
    assert wide is not None and narrow is not None and wide.high - wide.low > narrow.high - narrow.low
