"""Statistics over masked tensors. Entries outside the mask never affect a result, not even NaN or infinity."""

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask`; both of the same shape."""
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; 0 if the mask is empty."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(values - mean) / sqrt(variance + 1e-8) over the masked entries, 0 elsewhere; biased variance.

    `shift_mean=False` keeps the mean. With fewer than two masked entries, values are returned unchanged.
    Source: Huang et al. 2024 ("The N+ implementation details of RLHF with PPO"), details 17 and 20.
    """
    values = torch.where(mask, values, 0.0)
    if int(mask.sum()) < 2:
        return values
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    scaled = (values - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        scaled = scaled + mean
    return torch.where(mask, scaled, 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) where `mask`: 1 for a perfect critic, 0 for a constant one."""
    error = (returns - values)[mask]
    variance = returns[mask].var(unbiased=False)
    return float(1 - error.var(unbiased=False) / variance) if float(variance) > 0 else 0.0
