"""Running moments against the moments of everything at once; rewards scaled by the deviation of returns."""

import json

import numpy as np
import pytest

from trine.agents.normalization import CLIP, Moments, RewardScale


def test_moments_of_parts_are_the_moments_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(3.0, 5.0, (1000, 3))
    moments = Moments(3)
    for part in np.split(rows, [1, 10, 400]):
        moments.add(part)
    assert moments.mean == pytest.approx(rows.mean(0)) and moments.variance == pytest.approx(rows.var(0))
    normalized = moments.normalized(rows)
    assert normalized.dtype == np.float32
    assert np.abs(normalized.mean(0)).max() < 1e-5 and np.abs(normalized.std(0) - 1).max() < 1e-5


def test_before_the_first_row_nothing_is_changed_and_far_values_are_brought_near() -> None:
    assert Moments(2).normalized(np.array([[1.5, -99.0]])).tolist() == [[1.5, -CLIP]]


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    """Returns of copy 0: 2, 2 + 1 = 3; it ends; 4. Of copy 1: 0, 1, 1.5, at a discount of a half."""
    scale = RewardScale(2, 0.5)
    rewards = np.array([[2.0, 0.0], [2.0, 1.0], [4.0, 1.0]])
    later = scale.after(rewards, np.array([[False, False], [True, False], [False, False]]))
    scaled = later.scaled(rewards)
    deviation = np.std([2.0, 3.0, 4.0, 0.0, 1.0, 1.5])
    assert scaled == pytest.approx(rewards / deviation)
    assert later.returns.tolist() == [4.0, 1.5]
    assert scale.returns.tolist() == [0.0, 0.0] and scale.moments.count == 0


def test_a_scale_restored_from_json_goes_on_in_the_same_bits() -> None:
    generator = np.random.default_rng(0)
    rewards, ends = generator.normal(size=(2, 20, 3)), generator.random((2, 20, 3)) < 0.2
    straight = RewardScale(3, 0.99).after(rewards[0], ends[0])
    resumed = RewardScale(3, 0.99)
    resumed.restore(json.loads(json.dumps(straight.state())))
    first, second = (each.after(rewards[1], ends[1]) for each in (straight, resumed))
    assert first.state() == second.state()
    assert np.array_equal(first.scaled(rewards[1]), second.scaled(rewards[1]))
