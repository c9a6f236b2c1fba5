"""Estimates of KL(pi || ref) from sampled tokens (Schulman 2020, "Approximating KL divergence") and its control.

With l = log pi - log ref of a token sampled from pi: k1 = l, k2 = l^2 / 2, k3 = exp(-l) - 1 + l. In a reward, use k1.
In a loss the *gradient* matters: that of plain k1 is zero in expectation, and that of plain k3 is biased; those of k2,
k1 x rho and k3 x rho, with rho = pi / pi_old, are unbiased (at rho = 1).
"""

import math
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate, nats; the shape of the inputs."""
    log_ratio = log_probs - reference_log_probs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    return torch.expm1(-log_ratio) + log_ratio  # exp - 1 would round away what is left near 0


def kl_loss(log_probs: Tensor, old_log_probs: Tensor, reference_log_probs: Tensor, estimator: Estimator) -> Tensor:
    """Per-token KL penalty whose expected gradient is exact on the first update: k1 rho, k2, or k3 rho."""
    estimate = kl_estimate(log_probs, reference_log_probs, estimator)
    if estimator == "k2":
        return estimate
    return estimate * (log_probs - old_log_probs).exp()


MIN_FACTOR, MAX_FACTOR = 0.5, 2.0
"""What one measurement may do to the coefficient: with a short horizon Ziegler's factor alone reaches 0 and stays."""
MIN_COEFFICIENT = 1e-6
"""Adaptation alone never takes the coefficient below this, so that it can always return."""


def adapted_kl_coefficient(coefficient: float, kl: float, *, target: float, horizon: float, episodes: int) -> float:
    """beta (1 + clip(KL / target - 1, -0.2, 0.2) episodes / horizon) (Ziegler et al. 2019, section 2.2).

    `kl` is the mean over responses of the *sum* over tokens, in nats per response. The factor is kept within
    `MIN_FACTOR` and `MAX_FACTOR`, so that a positive coefficient stays positive whatever the horizon. A KL that is not
    finite says nothing: the coefficient stays what it is.
    """
    if not math.isfinite(kl):
        return coefficient
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    factor = min(max(1.0 + error * episodes / horizon, MIN_FACTOR), MAX_FACTOR)
    adapted = max(coefficient * factor, min(coefficient, MIN_COEFFICIENT))
    return adapted if math.isfinite(adapted) else coefficient
