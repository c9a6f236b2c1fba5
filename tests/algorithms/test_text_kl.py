"""KL estimators: values, and gradients by exact expectation over five outcomes."""

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trine.algorithms.text_kl import adapted_kl_coefficient, kl_estimate, kl_loss

THETA = torch.tensor([0.3, -0.5, 1.1, 0.2, -0.9], dtype=torch.float64)
REFERENCE = torch.tensor([0.0, 0.4, 0.3, -0.7, 0.1], dtype=torch.float64).log_softmax(0)


def expected(estimate: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
    """E over outcomes drawn from pi of a per-outcome estimate, and the expected gradient to theta."""
    theta = THETA.clone().requires_grad_()
    log_probs = theta.log_softmax(0)
    average = (log_probs.detach().exp() * estimate(log_probs)).sum()
    return float(average.detach()), torch.autograd.grad(average, theta)[0]


def true_gradient() -> Tensor:
    theta = THETA.clone().requires_grad_()
    log_probs = theta.log_softmax(0)
    kl = (log_probs.exp() * (log_probs - REFERENCE)).sum()
    return torch.autograd.grad(kl, theta)[0]


@pytest.mark.parametrize(("estimator", "value"), [("k1", 0.2576), ("k2", 0.23094), ("k3", 0.2576)])
def test_estimators_have_the_golden_expectations(estimator: str, value: float) -> None:
    assert expected(lambda lp: kl_estimate(lp, REFERENCE, estimator))[0] == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(("estimator", "error"), [("k1", 0.23878), ("k2", 0.0), ("k3", 0.10533)])
def test_plain_estimators_have_the_golden_gradient_errors(estimator: str, error: float) -> None:
    _, gradient = expected(lambda lp: kl_estimate(lp, REFERENCE, estimator))
    assert float((gradient - true_gradient()).norm()) == pytest.approx(error, abs=5e-6)


def test_the_true_gradient_has_the_golden_norm_and_that_of_plain_k1_is_zero() -> None:
    assert float(true_gradient().norm()) == pytest.approx(0.23878, abs=5e-6)
    assert float(expected(lambda lp: kl_estimate(lp, REFERENCE, "k1"))[1].norm()) < 1e-15


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_loss_has_the_exact_gradient_with_every_estimator(estimator: str) -> None:
    """k1 x rho, k2 and k3 x rho."""
    _, gradient = expected(lambda lp: kl_loss(lp, lp.detach(), REFERENCE, estimator))
    assert float((gradient - true_gradient()).norm()) < 1e-12


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_importance_weights_keep_the_loss_unbiased_when_samples_come_from_an_older_policy(estimator: str) -> None:
    """SampledToken from old: E_old[rho k] = E_pi[k] = KL."""
    old = torch.tensor([0.0, 0.2, -0.3, 0.5, 0.1], dtype=torch.float64).log_softmax(0)
    average = (old.exp() * kl_loss(THETA.log_softmax(0), old, REFERENCE, estimator)).sum()
    assert float(average) == pytest.approx(0.2576, abs=5e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_equal_distributions_have_no_kl(estimator: str) -> None:
    assert not kl_estimate(REFERENCE, REFERENCE, estimator).any()


def test_k2_and_k3_are_never_negative() -> None:
    log_probs = torch.linspace(-3, 0, 31)
    for estimator in ("k2", "k3"):
        assert (kl_estimate(log_probs, torch.full((31,), -1.0), estimator) >= 0).all()


@pytest.mark.parametrize(("kl", "coefficient"), [(12.0, 0.151536), (3.0, 0.148464), (6.0, 0.15), (6.6, 0.150768)])
def test_the_adaptive_coefficient_meets_the_golden_vectors(kl: float, coefficient: float) -> None:
    adapted = adapted_kl_coefficient(0.15, kl, target=6.0, horizon=10_000.0, episodes=512)
    assert adapted == pytest.approx(coefficient, abs=1e-12)


def test_no_horizon_and_no_kl_takes_the_coefficient_to_zero_or_out_of_the_numbers() -> None:
    """1.24: a short horizon reached 0 at the first update, where a factor leaves it for ever; a NaN KL said 'least'."""
    generator = random.Random(0)
    for _ in range(200):
        horizon, episodes = 10 ** generator.uniform(-2, 5), generator.randint(1, 2048)
        start = coefficient = 10 ** generator.uniform(-5, 1)
        for kl in [0.0, -3.0, float("nan"), 1e9, float("inf"), -1e-9] * 20 + [generator.uniform(-1, 20)]:
            before = coefficient
            coefficient = adapted_kl_coefficient(before, kl, target=6.0, horizon=horizon, episodes=episodes)
            assert 0 < coefficient < math.inf
            if not math.isfinite(kl):
                assert coefficient == before
            else:
                assert before / 2 <= coefficient <= before * 2
                assert coefficient == before or (coefficient > before) == (kl > 6.0) or coefficient == 1e-6
        for _ in range(5000):
            coefficient = adapted_kl_coefficient(coefficient, 0.0, target=6.0, horizon=horizon, episodes=episodes)
        assert coefficient >= min(start, 1e-6) / 2


def test_with_ziegler_s_horizons_the_factor_is_ziegler_s() -> None:
    """1.24: the bounds are out of reach where an iteration is less than two and a half horizons."""
    for kl in (0.0, 3.0, 5.9, 7.1, 100.0):
        expected = 0.2 * (1 + min(max(kl / 6 - 1, -0.2), 0.2) * 128 / 80)
        assert adapted_kl_coefficient(0.2, kl, target=6.0, horizon=80.0, episodes=128) == pytest.approx(expected)
