"""Step 4 without a critic: GRPO, RLOO and REINFORCE++, to be read beside PPO's `gae_of_responses`.

    group            GRPO, Dr. GRPO     a response's reward against its group's mean and deviation, at all its tokens
    leave_one_out    RLOO               a response's reward, less the mean of the others, at all its tokens
    global           REINFORCE++        what follows a token, normalised over the tokens of the step

A response's reward is the sum of its tokens': its score, less KL unless that is in the loss; so a baseline is taken
after KL. `algorithms/text_groups.py` has the formulas and the papers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trine.algorithms.text_groups import (
    global_advantages,
    group_advantages,
    leave_one_out_advantages,
    overlong_penalties,
    zero_variance,
)
from trine.config.rl import PpoConfig
from trine.records import Rollout


def groups_of(rollouts: Sequence[Rollout]) -> Tensor:
    """[B]: the number of each response's prompt."""
    return torch.tensor([rollout.prompt_index for rollout in rollouts])


def advantages_without_critic(rewards: Tensor, groups: Tensor, mask: Tensor, config: PpoConfig) -> Tensor:
    """Advantages [B, R] of the tokens' rewards [B, R]; responses without a token in the mask are in no group."""
    there = mask.any(1)
    if config.advantage == "global":
        if config.groups.baseline:
            rewards = _less_the_mean_of_groups(rewards, groups, mask)
        return global_advantages(rewards, mask, config.gamma)
    totals = torch.where(mask, rewards, 0.0).sum(1)[there]
    if config.advantage == "group":
        found = group_advantages(totals, groups[there], config.groups.deviation)
    else:
        found = leave_one_out_advantages(totals, groups[there])
    spread = torch.zeros(len(mask)).masked_scatter(there, found)
    return torch.where(mask, spread.unsqueeze(1), 0.0)


def _less_the_mean_of_groups(rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B, R] of which each response's last token pays the mean reward of its group."""
    there = mask.any(1)
    totals = torch.where(mask, rewards, 0.0).sum(1)[there]
    centred = group_advantages(totals, groups[there], "none")
    last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(1)[there]
    paid = rewards.clone()
    paid[there.nonzero().squeeze(1), last] += centred - totals
    return paid


def equal_groups(scores: Tensor, rollouts: Sequence[Rollout]) -> Tensor:
    """[B]: whether all scores of a response's group are equal; NaN, where a reward does not apply, is no score."""
    there, found = ~scores.isnan(), torch.zeros(len(scores), dtype=torch.bool)
    found[there] = zero_variance(scores[there], groups_of(rollouts)[there])
    return found


def learned_responses(scores: Tensor, rollouts: Sequence[Rollout], config: PpoConfig) -> Tensor:
    """[B]: which responses updates learn from, of those that a reward applies to."""
    learned = ~scores.isnan()
    if config.mask_truncated:
        learned &= torch.tensor([rollout.ended for rollout in rollouts])
    if config.groups.equal != "keep":
        learned &= ~equal_groups(scores, rollouts)
    return learned


def overlong(scores: Tensor, rollouts: Sequence[Rollout], config: PpoConfig) -> Tensor:
    """Scores [B] less the penalty for length, which rises over the last `overlong_buffer` tokens of the budget."""
    if not config.overlong_buffer:
        return scores
    lengths = torch.tensor([len(rollout.response_ids) for rollout in rollouts])
    penalties = overlong_penalties(lengths, config.max_new_tokens, config.overlong_buffer)
    return scores + config.overlong_penalty * penalties
