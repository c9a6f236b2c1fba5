"""Per-token rewards: the score at the last token of a response, a KL penalty at every token.

Shapes: B responses, T tokens; `mask` [B, T] marks the tokens that the policy sampled.
"""

import torch
from torch import Tensor


def last_step(mask: Tensor) -> Tensor:
    """Index [B] of the last masked step of each row; -1 without one."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, steps, -1).amax(1)


def moved_to_tokens(token_scores: Tensor, mask: Tensor) -> Tensor:
    """[B, T] to be added to rewards that have a score at the last masked step, so that it stands where it was earned.

    `token_scores` [B, T] add up to the score; every row of the result adds up to 0, so that what a response earns in
    all, scaling and penalties included, stays what it is.

    >>> moved_to_tokens(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, True, True]])).tolist()
    [[1.0, 2.0, -3.0]]
    """
    moved = torch.where(mask, token_scores, 0.0)
    last = last_step(mask)
    acted = (last >= 0).nonzero().squeeze(1)
    moved[acted, last[acted]] -= moved[acted].sum(1)
    return moved


def token_rewards(scores: Tensor, log_ratios: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """r_t = -beta (log pi_t - log ref_t), plus the score [B] at the last masked step (Ziegler et al. 2019, eq. 2).

    `log_ratios` [B, T] is the k1 estimate, without gradient. A row without masked steps gets no reward.
    """
    rewards = torch.where(mask, -kl_coefficient * log_ratios, 0.0)
    last = last_step(mask)
    acted = (last >= 0).nonzero().squeeze(1)
    rewards[acted, last[acted]] += scores[acted].to(rewards.dtype)
    return rewards
