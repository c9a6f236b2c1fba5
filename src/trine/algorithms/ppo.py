"""Proximal policy optimization (Schulman et al. 2017): the clipped policy and value losses, as sums over steps.

Used for language and control alike. Every input is flat, [M]: one entry for each step (or token) in the loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped loss and diagnostics, all summed over steps: scalars.

    `clipped_low`, `clipped_high`: steps whose loss the lower and the upper bound of the ratio determine.
    """

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    ratio: Tensor
    approximate_kl: Tensor

    @property
    def clipped(self) -> Tensor:
        """Steps where clipping determines the loss."""
        return self.clipped_low + self.clipped_high


def clipped_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float | None,
    clip_range_high: float | None = None,
    dual_clip_range: float | None = None,
) -> PolicyLoss:
    """Sum of max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range)) with rho = exp(new - old) (eq. 7).

    Without a `clip_range` it is the policy gradient: where rho is 1, as in the first update from a rollout, the
    gradient of -A rho is that of -A log pi (Williams 1992). `clip_range_high` is the upper range where it differs from
    the lower one (Yu et al. 2025, "DAPO", section 3.1). `dual_clip_range` c > 1 bounds the loss at -c A where A < 0
    (Ye et al. 2020, eq. 5). `approximate_kl` is the k3 estimate of KL(old || new).
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()  # [M]; 1 in the first update after a rollout
    unclipped = -advantages * ratio
    high = clip_range if clip_range_high is None else clip_range_high
    bounded = unclipped if clip_range is None or high is None else -advantages * ratio.clamp(1 - clip_range, 1 + high)
    losses = unclipped if clip_range is None else torch.maximum(unclipped, bounded)
    clipped = bounded > unclipped
    if dual_clip_range is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip_range * advantages), losses)
    return PolicyLoss(
        loss=losses.sum(),
        clipped_low=(clipped & (advantages < 0)).float().sum(),
        clipped_high=(clipped & (advantages > 0)).float().sum(),
        ratio=ratio.detach().sum(),
        # expm1: near a ratio of 1, exp - 1 would round away what is left of the difference.
        approximate_kl=(torch.expm1(log_ratio.detach()) - log_ratio.detach()).sum(),
    )


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float | None) -> Tensor:
    """Sum of 0.5 max((V - R)^2, (V_old + clip(V - V_old, -clip_range, clip_range) - R)^2).

    Plain squared error without a `clip_range`.
    """
    losses = (values - returns).square()
    if clip_range is not None:
        bounded = old_values + (values - old_values).clamp(-clip_range, clip_range)
        losses = torch.maximum(losses, (bounded - returns).square())
    return 0.5 * losses.sum()
