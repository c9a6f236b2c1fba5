"""Several reward models as one: their mean less their spread, so that what they disagree on is worth less (Coste et al.
2023, "Reward model ensembles help mitigate overoptimization").

    mean_minus_std   mean - std of the scores of the members

They have to be of one unit: each normalised on the policy's samples, or each the log-odds of labels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trine.records import Answer
from trine.rewards.base import DetailedReward, Reward, Scored


class MeanMinusStd(DetailedReward):
    """The mean of several rewards less their standard deviation::

        def brief(prompts, responses):
            return [-len(response) for response in responses]

        def plain(prompts, responses):
            return [-response.count("!") for response in responses]

        members = {"brief": FunctionReward(brief, "brief"), "plain": FunctionReward(plain, "plain")}
        scores = MeanMinusStd(members).score(answers)  # [B]

    `biased`: the deviation divides by the number of members n, as that of a population; else by n - 1. Where one of
    them does not apply (NaN), the ensemble does not. A single member has no deviation: at least two are needed.
    """

    def __init__(self, rewards: Mapping[str, Reward], *, biased: bool = True) -> None:
        if len(rewards) < 2:
            raise ValueError(f"an ensemble has two rewards or more, not {len(rewards)}")
        super().__init__()
        self.rewards, self.biased = dict(rewards), biased

    def detailed(self, answers: Sequence[Answer]) -> Scored:
        """Scores [B], and what each member gives, by its name."""
        members = {name: reward.score(answers) for name, reward in self.rewards.items()}
        return Scored(mean_minus_std(torch.stack(list(members.values())), biased=self.biased), members)


def mean_minus_std(scores: Tensor, *, biased: bool = True) -> Tensor:
    """[B] of the scores [M, B] of M members, in fp32; the statistics are taken in fp64.

    >>> mean_minus_std(torch.tensor([[1.0], [1.6], [0.4]]), biased=False)
    tensor([0.4000])
    """
    exact = scores.double()
    return (exact.mean(0) - exact.std(0, correction=0 if biased else 1)).float()
