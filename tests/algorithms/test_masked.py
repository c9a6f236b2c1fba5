"""Masked statistics: golden vectors, and nothing under the mask ever counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from trine.algorithms.masked import explained_variance, masked_mean, masked_sum, masked_whiten

NAN = float("nan")
numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def test_whitening_meets_the_golden_vector() -> None:
    values = torch.tensor([1.0, 2, 0, 0, 3, 4, 5, 6])
    mask = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1]).bool()
    expected = torch.tensor([-1.4639, -0.8783, 0, 0, -0.2928, 0.2928, 0.8783, 1.4639])
    assert_close(masked_whiten(values, mask), expected, atol=6e-5, rtol=0)


def test_whitening_uses_the_biased_variance() -> None:
    whitened = masked_whiten(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    assert_close(whitened, torch.tensor([-1.0, 1.0]))  # the unbiased form would give 0.7071


def test_whitening_without_shift_keeps_the_mean() -> None:
    """Mean 4, variance 4."""
    values, mask = torch.tensor([2.0, 6.0, NAN]), torch.tensor([True, True, False])
    assert_close(masked_whiten(values, mask, shift_mean=False), torch.tensor([3.0, 5.0, 0.0]))


def test_fewer_than_two_values_are_not_whitened() -> None:
    values = torch.tensor([7.0, NAN])
    assert masked_whiten(values, torch.tensor([True, False])).tolist() == [7.0, 0.0]
    assert masked_whiten(values, torch.tensor([False, False])).tolist() == [0.0, 0.0]


def test_equal_values_whiten_to_zero() -> None:
    assert masked_whiten(torch.full((4,), 3.0), torch.ones(4).bool()).tolist() == [0.0] * 4


def test_the_mean_of_nothing_is_zero() -> None:
    assert float(masked_mean(torch.tensor([NAN, NAN]), torch.tensor([False, False]))) == 0.0


@pytest.mark.parametrize("hidden", [NAN, float("inf"), -1e30])
def test_what_the_mask_hides_reaches_neither_value_nor_gradient(hidden: float) -> None:
    values = torch.tensor([1.0, hidden, 3.0], requires_grad=True)
    mask = torch.tensor([True, False, True])
    for function, expected in ((masked_sum, 4.0), (masked_mean, 2.0)):
        (gradient,) = torch.autograd.grad(function(values, mask), values)
        assert function(values, mask).item() == expected
        assert gradient.tolist() == [expected / 4, 0.0, expected / 4]
    (gradient,) = torch.autograd.grad(masked_whiten(values, mask)[0], values)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


@settings(deadline=None, max_examples=50)
@given(numbers, st.integers(0, 5))
def test_padding_changes_no_statistic(numbers: list[float], padding: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    mask = torch.ones(len(values)).bool()
    padded = torch.cat((values, torch.full((padding,), NAN, dtype=torch.float64)))
    wide = torch.cat((mask, torch.zeros(padding).bool()))
    assert_close(masked_sum(padded, wide), masked_sum(values, mask))
    assert_close(masked_mean(padded, wide), masked_mean(values, mask))
    assert_close(masked_whiten(padded, wide)[: len(values)], masked_whiten(values, mask))
    assert explained_variance(padded, padded, wide) == explained_variance(values, values, mask)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True))
def test_whitened_values_have_mean_zero_and_variance_one(numbers: list[int]) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    whitened = masked_whiten(values, torch.ones(len(values)).bool())
    assert float(whitened.mean()) == pytest.approx(0, abs=1e-9)
    assert float(whitened.var(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one() -> None:
    returns, mask = torch.tensor([1.0, 2.0, 4.0, NAN]), torch.tensor([1, 1, 1, 0]).bool()
    assert explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full((4,), 9.0), returns, mask) == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3.0)


def test_explained_variance_of_constant_returns_is_zero() -> None:
    assert explained_variance(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 5.0]), torch.ones(2).bool()) == 0.0
