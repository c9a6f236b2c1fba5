"""Importance sampling: what an update learned from another policy's samples weighs."""

from torch import Tensor


def truncation(log_probs: Tensor, old_log_probs: Tensor, cap: float) -> Tensor:
    """min(1, cap / rho), without gradient, [M]: as a weight of the loss it makes the ratio rho count at most `cap`.

    Truncated importance sampling (Ionides 2008), where the old log-probabilities are not the learner's own.
    """
    return (old_log_probs - log_probs.detach()).exp().mul_(cap).clamp_(max=1.0)
