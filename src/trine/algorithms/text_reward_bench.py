"""A reward model's choice among several answers to a prompt, counted as RewardBench 2 counts it.

Malik et al. 2025, "RewardBench 2: Advancing Reward Model Evaluation". Of four answers one is good: right where it
scores highest. Where several are good (ties), every good one has to score above every bad one, and the good ones have
to be closer to each other than to the bad ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def choice_credit(scores: Sequence[float], good: Sequence[int]) -> float:
    """1 where the highest score is a good answer's; of several highest ones, the share of them that are good.

    >>> choice_credit([2.0, 0.5, 2.0, 1.0], good=[0])
    0.5
    """
    best = max(scores)
    highest = [place for place, score in enumerate(scores) if score == best]
    return sum(place in good for place in highest) / len(highest)


def best_of_four_from_labels(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each yes [P] the probability that it scores above three no's, any three of them alike.

    >>> best_of_four_from_labels(np.array([2.5, 0, 1, 2, 3]), np.array([1.0, 0, 0, 0, 0])).tolist()
    [0.25]

    Chance is a quarter; equal scores share the credit. Empty where there are fewer than three no's.
    """
    yes, no = scores[labels > 0.5], np.sort(scores[labels <= 0.5])
    if len(no) < 3:
        return np.zeros(0)
    below = np.searchsorted(no, yes, "left").astype(np.float64)
    tied = np.searchsorted(no, yes, "right") - below
    credit: NDArray[np.float64] = np.zeros(len(yes))
    for each in range(4):  # of the three that many score the same
        credit += _choose(below, 3 - each) * _choose(tied, each) / (1 + each)
    return credit / math.comb(len(no), 3)


def _choose(n: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """C(n, k) of whole numbers; 0 where n < k."""
    ways = np.ones_like(n)
    for place in range(k):
        ways *= np.maximum(n - place, 0.0) / (place + 1)
    return ways


@dataclass(frozen=True)
class TieMargins:
    """Of one prompt: between the best and the worst good answer, and between the worst good and the best bad one."""

    among_good: float
    to_bad: float

    @property
    def separated(self) -> bool:
        """Whether every good answer scores above every bad one."""
        return self.to_bad > 0


def tie_margins(scores: Sequence[float], good: Sequence[int]) -> TieMargins:
    """The margins of a prompt that has good answers, `good` their places, and bad ones."""
    among = [scores[place] for place in good]
    bad = [score for place, score in enumerate(scores) if place not in good]
    return TieMargins(max(among) - min(among), min(among) - max(bad))


def ties_score(tied: Sequence[TieMargins], single: Sequence[TieMargins] = ()) -> float:
    """RewardBench 2's score of prompts with several good answers: 0.6 accuracy and 0.4 margins, 1.01 at most.

    `single`: of each prompt the margins of its variant with one good answer, in the same order. RewardBench has one for
    each; judgements that people gave seldom do, and then what is asked of both is asked of the prompt alone.

    >>> round(ties_score([TieMargins(among_good=0.5, to_bad=1.0)]), 6)
    1.007616
    """
    accurate = _mean([each.separated for each in tied])
    preferred = _mean([each.to_bad > each.among_good for each in tied])
    pairs = list(zip(tied, single, strict=True)) if single else [(each, each) for each in tied]
    smaller = [min(one.to_bad, other.to_bad) for one, other in pairs]
    hard = _mean([margin > each.among_good for margin, each in zip(smaller, tied, strict=True)])
    tie_break = _mean(
        [
            math.tanh(margin / each.among_good - 1) if each.among_good else 0.0
            for margin, each in zip(smaller, tied, strict=True)
        ]
    )
    single_accurate = _mean([each.separated for each in single]) if single else accurate
    return 0.3 * accurate + 0.3 * single_accurate + 0.2 * preferred + 0.2 * hard + 0.01 * tie_break


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
