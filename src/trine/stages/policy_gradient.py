"""The terms that every policy gradient of Trine has, on text and on control tasks alike."""

from torch import Tensor

from trine.algorithms.ppo import clipped_policy_loss, clipped_value_loss
from trine.config.policy_gradient import PolicyGradientConfig
from trine.records import Term

POLICY_TERMS = ("policy", "entropy", "clip_fraction", "clip_low", "clip_high", "ratio", "approximate_kl")
"""What `policy_terms` names: all are sums over tokens or steps."""


def policy_terms(
    log_probs: Tensor,
    entropy: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    config: PolicyGradientConfig,
    weight: float = 1.0,
) -> dict[str, Term]:
    """Clipped policy loss and entropy bonus over N tokens or steps, and figures; all tensors are [N].

    `weight` scales what moves the policy: 0 while only the critic learns.
    """
    policy = clipped_policy_loss(
        log_probs, old_log_probs, advantages, clip_range=config.clip_range, clip_range_high=config.clip_range_high,
        dual_clip_range=config.dual_clip_range,
    )  # fmt: skip
    return {
        "policy": Term(policy.loss, weight),
        "entropy": Term(entropy.sum(), -config.entropy_weight * weight),
        "clip_fraction": Term(policy.clipped, weight=0.0),
        "clip_low": Term(policy.clipped_low, weight=0.0),
        "clip_high": Term(policy.clipped_high, weight=0.0),
        "ratio": Term(policy.ratio, weight=0.0),
        "approximate_kl": Term(policy.approximate_kl, weight=0.0),
    }


def value_term(values: Tensor, old_values: Tensor, returns: Tensor, config: PolicyGradientConfig) -> Term:
    """The critic's squared error over N tokens or steps."""
    loss = clipped_value_loss(values, old_values, returns, clip_range=config.value_clip_range)
    return Term(loss, config.value_weight)
