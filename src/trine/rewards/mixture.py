"""A weighted sum of rewards, each logged alone.

A part that does not apply to an answer is left out of that answer's sum; where none applies the score is NaN. With
`normalized`, each part is first normalised within its prompt's group (GDPO, Liu et al. 2026), so that no part drowns
the others because its numbers are larger or its answers alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trine.algorithms.text_group_scores import group_moments
from trine.records import Answer
from trine.rewards.base import DetailedReward, Reward, Scored, scored
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class WeightedPart:
    """A part of a sum; `name` is what it is logged as."""

    name: str
    reward: Reward
    weight: float = 1.0


class WeightedSum(DetailedReward):
    """The sum of rewards, each times its weight::

        def brief(prompts, responses):
            return [-len(response) for response in responses]

        parts = [WeightedPart("brief", FunctionReward(brief, "brief"), weight=0.1)]
        scores = WeightedSum(parts).score(answers)  # [B]

    `normalized`: of each part the answer's distance from its group's mean, in its group's deviations. Raises
    `TrineError` where every group is of one answer, of which nothing would be left.
    """

    def __init__(self, summands: Sequence[WeightedPart], *, normalized: bool = False) -> None:
        super().__init__()
        self.summands, self.normalized = tuple(summands), normalized

    def detailed(self, answers: Sequence[Answer]) -> Scored:
        """Scores [B], each part's own, and token scores where a part has them."""
        groups = torch.tensor([answer.prompt_index for answer in answers])
        if self.normalized and len(groups.unique()) == len(answers):
            raise TrineError(
                "a sum of rewards that is normalised within the answers to one prompt needs several answers a prompt, "
                "and each prompt has one: sample more answers a prompt, or leave normalize at none"
            )
        found = [scored(part.reward, answers) for part in self.summands]
        scales = [self._scale(each.scores, groups) for each in found]
        weights = [part.weight for part in self.summands]
        shares = torch.stack([
            weight * (each.scores.double() - mean) / deviation
            for weight, each, (mean, deviation) in zip(weights, found, scales, strict=True)
        ])  # fmt: skip
        total = torch.where(shares.isnan().all(0), torch.nan, shares.nansum(0))
        parts = {part.name: each.scores for part, each in zip(self.summands, found, strict=True)}
        return Scored(total.float(), parts, self._token_scores(found, scales, shares))

    def _scale(self, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """What is subtracted from a part's scores [B], and what they are then divided by."""
        if self.normalized:
            return group_moments(scores, groups)
        return torch.zeros(len(scores)), torch.ones(len(scores))

    def _token_scores(
        self, found: Sequence[Scored], scales: Sequence[tuple[Tensor, Tensor]], shares: Tensor
    ) -> list[list[float]] | None:
        """Each part's share at the tokens where it was earned; what has no token is earned at the last one."""
        if all(each.token_scores is None for each in found):
            return None
        lengths = [len(tokens) for tokens in next(each.token_scores for each in found if each.token_scores is not None)]
        total = torch.zeros(len(lengths), max(lengths), dtype=torch.float64)
        rows, last = torch.arange(len(lengths)), torch.tensor(lengths) - 1
        for part, each, (_, deviation), share in zip(self.summands, found, scales, shares, strict=True):
            earned = torch.zeros_like(total)
            for row, tokens in enumerate(each.token_scores or ()):
                earned[row, : len(tokens)] = torch.tensor(tokens) * part.weight / deviation[row]
            earned = torch.where(share.isnan().unsqueeze(1), 0.0, earned)
            earned[rows, last] += share.nan_to_num(0.0) - earned.sum(1)
            total += earned
        return [row[:length].tolist() for row, length in zip(total, lengths, strict=True)]


def leaves(reward: Reward) -> list[Reward]:
    """The rewards that a sum is of; a reward that is no sum is its only one."""
    return [part.reward for part in reward.summands] if isinstance(reward, WeightedSum) else [reward]
