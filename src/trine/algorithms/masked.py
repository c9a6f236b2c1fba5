"""Statistics over masked tensors. Entries outside the mask never affect a result, not even NaN or infinity.

Sums are taken in float64 where the device has it, and deviations from the mean in two passes: in fp32 a mean of 1000
is known to 1e-4 only, which is a tenth of a deviation of 1e-3 (Chan, Golub & LeVeque 1983).
"""

import torch
from torch import Tensor


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """float64 if the device supports it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask`; both of the same shape."""
    return torch.where(mask, values, 0.0).sum(dtype=sum_dtype(values)).to(values.dtype)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; 0 if the mask is empty."""
    total = masked_sum(values.to(sum_dtype(values)), mask)
    return (total / mask.sum().clamp(min=1)).to(values.dtype)


def centred(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(values - mean where `mask`, mean), in `sum_dtype`; the second pass takes off what rounding left of the mean."""
    wide = torch.where(mask, values, 0.0).to(sum_dtype(values))
    mean = masked_mean(wide, mask)
    deviations = torch.where(mask, wide - mean, 0.0)
    rest = masked_mean(deviations, mask)
    return torch.where(mask, deviations - rest, 0.0), mean + rest


def masked_whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(values - mean) / sqrt(variance + 1e-8) over the masked entries, 0 elsewhere; biased variance.

    `shift_mean=False` keeps the mean. With fewer than two masked entries, values are returned unchanged.
    Source: Huang et al. 2024 ("The N+ implementation details of RLHF with PPO"), details 17 and 20.
    """
    if int(mask.sum()) < 2:
        return torch.where(mask, values, 0.0)
    deviations, mean = centred(values, mask)
    scaled = deviations * torch.rsqrt(masked_mean(deviations.square(), mask) + 1e-8)
    if not shift_mean:
        scaled = torch.where(mask, scaled + mean, 0.0)
    return scaled.to(values.dtype)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) where `mask`: 1 for a perfect critic, 0 for a constant one."""
    wide = sum_dtype(returns)
    error, variance = (
        float(centred(each, mask)[0].square().sum()) for each in (returns.to(wide) - values.to(wide), returns)
    )
    return 1 - error / variance if variance > 0 else 0.0
