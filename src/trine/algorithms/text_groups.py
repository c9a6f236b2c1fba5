"""Policy gradients without a critic: a response is compared with the other responses to its prompt.

    GRPO             score less the group's mean, over the group's deviation (Shao et al. 2024; DeepSeek-AI 2025)
    Dr. GRPO         score less the group's mean (Liu et al. 2025)
    RLOO             score less the mean of the others (Kool et al. 2019; Ahmadian et al. 2024)
    REINFORCE++      score and KL of all that follows, normalised over the tokens of the step (Hu et al. 2025); its
                     baseline form takes the group's mean off first

Shapes: B responses, R tokens of the longest; `mask` [B, R] marks the tokens that the policy wrote, `groups` [B] is the
number of each response's prompt. Invariants: a group's order, and what lies outside the mask, change nothing; a group
has no variance exactly where its largest score is its smallest: what rounding makes of a deviation says nothing.
"""

from typing import Literal

import torch
from torch import Tensor

from trine.algorithms.masked import masked_whiten

Deviation = Literal["population", "sample", "none"]
Aggregation = Literal["token", "response", "constant"]


def zero_variance(scores: Tensor, groups: Tensor) -> Tensor:
    """[B]: whether all scores of a response's group are equal, so that the group has nothing to say.

    >>> zero_variance(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])).tolist()
    [True, True, False, False]
    """
    places, count = _places(groups)
    spread = [scores.new_full((count,), limit) for limit in (-torch.inf, torch.inf)]
    largest = spread[0].scatter_reduce(0, places, scores, "amax")
    smallest = spread[1].scatter_reduce(0, places, scores, "amin")
    return (largest == smallest)[places]


def group_advantages(scores: Tensor, groups: Tensor, deviation: Deviation = "sample") -> Tensor:
    """[B]: scores [B] less the mean of their group, over its deviation, that of the population or of a sample.

    TRL and verl divide by that of a sample, `none` is Dr. GRPO. A group without variance has advantage 0.

    >>> group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4).long()).tolist()
    [1.5, -0.5, -0.5, -0.5]
    """
    places, count = _places(groups)
    sizes = torch.bincount(places, minlength=count).double()
    wide = scores.double()
    centred = wide - (_sums(wide, places, count) / sizes)[places]
    if deviation != "none":
        freedom = sizes - 1 if deviation == "sample" else sizes
        variances = _sums(centred.square(), places, count) / freedom.clamp(min=1)
        centred = centred / variances.sqrt()[places]
    return torch.where(zero_variance(scores, groups), 0.0, centred).to(scores.dtype)


def leave_one_out_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """[B]: scores [B] less the mean of the other scores of their group (RLOO); 0 where there are no others.

    >>> leave_one_out_advantages(torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3).long()).tolist()
    [-3.0, -1.5, 4.5]
    """
    places, count = _places(groups)
    sizes = torch.bincount(places, minlength=count).double()
    wide = scores.double()
    # n / (n - 1) times the distance from the mean, in which the response itself takes part.
    advantages = (wide - (_sums(wide, places, count) / sizes)[places]) * (sizes / (sizes - 1).clamp(min=1))[places]
    return torch.where(zero_variance(scores, groups), 0.0, advantages).to(scores.dtype)


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """[B, R]: at each token of the mask the discounted sum of the rewards [B, R] from it on; 0 elsewhere."""
    total = torch.zeros_like(rewards[:, 0])
    found = []
    for reward, written in zip(reversed(rewards.T), reversed(mask.T), strict=True):
        total = torch.where(written, reward + gamma * total, total)
        found.append(torch.where(written, total, 0.0))
    return torch.stack(found[::-1], 1)


def global_advantages(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """[B, R]: what follows each token, normalised over all tokens of the step (REINFORCE++, eqs. 5-6)."""
    return masked_whiten(returns_to_go(rewards, mask, gamma), mask)


def token_weights(mask: Tensor, aggregation: Aggregation) -> Tensor:
    """[B, R]: what each token's loss weighs in the sum that `aggregation_count` divides.

    token: all tokens of the step alike (DAPO); response: all responses alike, of whatever length (GRPO); constant: all
    tokens alike, over a constant length (Dr. GRPO), so that no token's weight depends on what else was sampled.
    """
    if aggregation != "response":
        return mask.float()
    return torch.where(mask, 1.0 / mask.sum(1, keepdim=True).clamp(min=1), 0.0)


def aggregation_count(mask: Tensor, aggregation: Aggregation, max_new_tokens: int) -> float:
    """What the weighted sum over tokens is divided by: tokens, responses, or responses times the budget of one."""
    if aggregation == "token":
        return float(mask.sum())
    return float(mask.any(1).sum()) * (max_new_tokens if aggregation == "constant" else 1)


def sequence_log_ratios(log_ratios: Tensor, owners: Tensor, count: int) -> Tensor:
    """[N]: the mean of a response's token log-ratios, at each of its tokens (GSPO; Zheng et al. 2025, eq. 7).

    `log_ratios` [N] flat over the tokens of `count` responses, `owners` [N] the response of each. A response's tokens
    share one ratio, so that with aggregation `response` the clipped loss is GSPO's (eq. 5), gradient included.
    """
    lengths = torch.bincount(owners, minlength=count).clamp(min=1)
    means = log_ratios.new_zeros(count).index_add(0, owners, log_ratios) / lengths
    return means[owners]


def overlong_penalties(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """[B]: 0 up to `limit` - `buffer` tokens, then evenly down to -1 at `limit` (DAPO; Yu et al. 2025, eq. 13).

    >>> overlong_penalties(torch.tensor([16, 17, 19, 20, 21]), limit=20, buffer=4).tolist()
    [0.0, -0.25, -0.75, -1.0, -1.0]
    """
    return ((limit - buffer - lengths) / buffer).clamp(-1.0, 0.0)


def _places(groups: Tensor) -> tuple[Tensor, int]:
    """The groups numbered from 0, and how many there are."""
    names, places = torch.unique(groups, return_inverse=True)
    return places, len(names)


def _sums(values: Tensor, places: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, places, values)
