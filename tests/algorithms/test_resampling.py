"""The cluster bootstrap: its interval holds the truth as often as it says, and groups stay whole."""

import numpy as np

from trine.algorithms.resampling import bootstrap_intervals
from trine.algorithms.statistics import grouped_mean
from trine.algorithms.text_correlation import spearman


def test_of_a_mean_it_is_what_the_formula_of_groups_says() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    values = generator.standard_normal(60)[groups] + 0.3 * generator.standard_normal(300)
    (found,) = bootstrap_intervals(lambda places: [values[places].mean()], groups, generator)
    known = grouped_mean(values.tolist(), groups.tolist()).interval
    assert found is not None and known is not None
    assert abs((found.high - found.low) / (known.high - known.low) - 1) < 0.25


def test_its_interval_holds_the_true_correlation_about_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(1), 0
    for _ in range(40):
        x = generator.standard_normal(80)
        y = 0.7 * x + np.sqrt(1 - 0.49) * generator.standard_normal(80)
        (found,) = bootstrap_intervals(
            lambda places, x=x, y=y: [spearman(x[places], y[places])], np.arange(80), generator
        )  # type: ignore[misc]
        assert found is not None
        held += found.holds(6 / np.pi * np.arcsin(0.7 / 2))
    assert 33 <= held <= 40


def test_few_groups_have_no_interval_and_a_figure_without_values_has_none() -> None:
    generator = np.random.default_rng(2)
    assert bootstrap_intervals(lambda places: [1.0], np.array([0, 1, 1, 2]), generator) == [None]
    assert bootstrap_intervals(lambda places: [float("nan")], np.arange(9), generator) == [None]
