"""1.16: a mean, a deviation and a whitening are right far from 0, where fp32 sums are not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trine.agents.normalization import Moments, standardized
from trine.algorithms.masked import explained_variance, masked_mean, masked_whiten
from trine.algorithms.ppo import clipped_policy_loss
from trine.algorithms.text_kl import kl_estimate
from trine.algorithms.text_ranking import normalization

far = st.sampled_from([0.0, 1.0, -100.0, 1000.0, -1e4, 1e4])
near = st.sampled_from([1e-3, 1e-2, 1.0, 50.0])
counts = st.integers(2, 700)
seeds = st.integers(0, 10**6)


def sample(offset: float, deviation: float, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """fp32 numbers, and a mask of at least two of them; NaN and infinity outside it."""
    generator = torch.Generator().manual_seed(seed)
    values = offset + deviation * torch.randn(count, generator=generator)
    mask = torch.rand(count, generator=generator) < 0.7
    mask[:2] = True
    return torch.where(mask, values, torch.tensor([float("nan"), float("inf")]).repeat(count)[:count]), mask


def exactly(values: Tensor, mask: Tensor) -> tuple[float, float]:
    """Mean and deviation of what the fp32 numbers are, in float64."""
    kept = values[mask].double().numpy()
    return float(kept.mean()), float(kept.std())


@settings(deadline=None, max_examples=80)
@given(far, near, counts, seeds)
def test_whitening_is_right_whatever_the_offset(offset: float, deviation: float, count: int, seed: int) -> None:
    """1.16: at offset 1000 and deviation 1e-3 it was off by 0.3 deviations."""
    values, mask = sample(offset, deviation, count, seed)
    mean, spread = exactly(values, mask)
    expected = (values[mask].double() - mean) / np.sqrt(spread**2 + 1e-8)
    whitened = masked_whiten(values, mask)
    assert whitened.dtype == torch.float32 and not whitened[~mask].any()
    assert float((whitened[mask].double() - expected).abs().max()) < 1e-5
    kept = masked_whiten(values, mask, shift_mean=False)[mask].double()
    assert float((kept - expected - mean).abs().max()) < 1e-5 + 1e-7 * abs(offset)


@settings(deadline=None, max_examples=50)
@given(far, near, counts, seeds)
def test_minibatch_advantages_score_normalization_and_moments_too(
    offset: float, deviation: float, count: int, seed: int
) -> None:
    """1.16: the same of CleanRL's normalization, of a reward model's gain, of running moments, of a masked mean."""
    values, mask = sample(offset, deviation, count, seed)
    kept = values[mask]
    mean, spread = exactly(values, mask)
    assert float(masked_mean(values, mask)) == pytest.approx(mean, rel=2e-7, abs=1e-9)
    unbiased = float(np.std(kept.double().numpy(), ddof=1))
    expected = (kept.double() - mean) / (unbiased + 1e-8)
    assert float((standardized(kept).double() - expected).abs().max()) < 1e-5
    gain, shift = normalization(kept)
    if spread > 1e-8:
        scaled = gain * kept.double() + shift
        assert float(scaled.mean()) == pytest.approx(0, abs=1e-6)
        assert float(scaled.std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    moments = Moments(1)
    for part in np.array_split(kept.numpy().reshape(-1, 1), 3):
        if len(part):
            moments.add(part)
    assert float(moments.mean[0]) == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert float(moments.variance[0]) == pytest.approx(spread**2, rel=1e-6, abs=1e-15)


@settings(deadline=None, max_examples=50)
@given(far, near, st.floats(0.01, 2), counts, seeds)
def test_explained_variance_does_not_depend_on_the_offset(
    offset: float, deviation: float, share: float, count: int, seed: int
) -> None:
    """1.16"""
    returns, mask = sample(offset, deviation, count, seed)
    values = torch.where(mask, returns + share * deviation * torch.linspace(-1, 1, count), 7.0)
    error, spread = exactly(returns.double() - values.double(), mask)[1], exactly(returns, mask)[1]
    expected = 1 - (error / spread) ** 2 if spread else 0.0
    assert explained_variance(values, returns, mask) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e4, 1e4, width=32), st.integers(1, 300))
def test_equal_numbers_and_one_number_are_themselves(value: float, count: int) -> None:
    """1.16: no deviation is made up of rounding: equal values whiten to 0, a single one stays."""
    values, mask = torch.full((count,), value), torch.ones(count, dtype=torch.bool)
    assert float(masked_mean(values, mask)) == value
    assert masked_whiten(values, mask).tolist() == ([0.0] * count if count > 1 else [value])
    assert standardized(values).tolist() == ([0.0] * count if count > 1 else [value])
    assert explained_variance(values + torch.arange(count), values, mask) == 0.0
    assert normalization(values) == (1.0, pytest.approx(-value))


def test_a_small_kl_is_not_rounded_away() -> None:
    """1.16: exp(-l) - 1 + l in fp32 is 0 or 1e-7 for every l below 1e-4, and may be negative."""
    ratios = torch.tensor([10.0**-power for power in range(1, 6)])
    exact = torch.expm1(-ratios.double()) + ratios.double()
    assert torch.allclose(kl_estimate(ratios, torch.zeros(5), "k3").double(), exact, rtol=2e-3, atol=0)
    loss = clipped_policy_loss(ratios[3:4], torch.zeros(1), torch.ones(1), clip_range=0.2)
    assert float(loss.approximate_kl) == pytest.approx(5.0e-9, rel=1e-2)
