"""Which of two answers is better, as a reward: each answer has the share of its group that it beats.

A group are the answers to one prompt (`Answer.prompt_index`); each two of them are compared once. Every other pair is
shown the other way round, so that a liking for the first of two is nobody's gain.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch

from trine.algorithms.text_group_scores import shares_won
from trine.records import Answer
from trine.rewards.base import DetailedReward, Scored
from trine.rewards.function import FunctionReward, RewardFunction
from trine.rewards.returned import shown
from trine.rewards.texts import asked, told_answer
from trine.runtime.errors import TrineError


class PairwiseReward(DetailedReward):
    """A Python function that says of pairs how far the first is better, from 0 to 1::

        def shorter(prompts, first, second):
            return [len(a) < len(b) for a, b in zip(first, second)]

        group = [Answer((Message("user", "2 + 2?"),), text) for text in ("4", "It is four.", "Is it five?")]
        scores = PairwiseReward(shorter, "shorter").score(group)  # [1.0, 0.5, 0.0]

    0.5 is a tie, None a pair that cannot be compared. Otherwise it is called as a `FunctionReward` is, columns,
    workers and timeout included. Raises `TrineError` where every group is of one answer, and whatever `FunctionReward`
    does.
    """

    def __init__(self, function: RewardFunction, name: str, *, workers: int = 1, timeout: float | None = None) -> None:
        super().__init__()
        self.name = name
        self.function = FunctionReward(function, name, workers=workers, timeout=timeout, lists=3)

    def try_out(self, answers: Sequence[Answer], called_with: int = 3) -> None:
        """Raise `TrineError` now if a field is missing in any record or comparing the first answers goes wrong."""
        self.function.columns(answers)
        self._compared([(answer, answer) for answer in answers[:called_with]])

    def detailed(self, answers: Sequence[Answer]) -> Scored:
        """The share [B] of the others in its group that each answer beats, ties half."""
        pairs = [
            (i, j) if (i + j) % 2 else (j, i)
            for i, j in combinations(range(len(answers)), 2)
            if answers[i].prompt_index == answers[j].prompt_index
        ]
        if not pairs:
            raise TrineError(
                f"reward {self.name} compares the answers to one prompt, and each prompt has one: sample more a prompt"
            )
        wins = torch.full((len(answers), len(answers)), math.nan)
        found = self._compared([(answers[i], answers[j]) for i, j in pairs])
        for (i, j), value in zip(pairs, found, strict=True):
            wins[i, j], wins[j, i] = value, 1 - value
        return Scored(shares_won(wins))

    def _compared(self, pairs: Sequence[tuple[Answer, Answer]]) -> list[float]:
        first, second = [one for one, _ in pairs], [other for _, other in pairs]
        lists = [[asked(a) for a in first], [a.response for a in first], [a.response for a in second]]
        values = self.function.call(lists, first)
        return [self._checked(value, pair) for value, pair in zip(values, pairs, strict=True)]

    def _checked(self, value: Any, pair: tuple[Answer, Answer]) -> float:
        if value is None:
            return math.nan
        number = float(value) if hasattr(value, "__float__") else math.nan
        if not 0 <= number <= 1:
            raise TrineError(
                f"reward {self.name} returned {shown(value)} for {told_answer(pair[0])}, compared with "
                f"{pair[1].response[:60]!r}; it has to return 1 where the first is better, 0 where the second is, 0.5 "
                "for a tie, or None where they cannot be compared"
            )
        return number
