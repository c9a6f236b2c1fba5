"""Scoring while something else runs: a slow reward in a thread of its own, beside sampling and log-probabilities.

One thread, so that the calls of a reward come one after the other and in order; what they return depends on nothing
that runs beside them. PyTorch's work leaves Python to the thread meanwhile, and so does waiting for a network.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from trine.records import Answer
from trine.rewards.base import Reward


class Scorer:
    """Scores the answers of an iteration: `add` them part by part, then ask for the `scores` [B], in this order.

    In the background each part is begun when it is added; else all are scored in one call of the reward, by `scores`.
    """

    def __init__(self, reward: Reward, *, background: bool) -> None:
        self.reward = reward
        self._thread = ThreadPoolExecutor(1, "trine reward") if background else None
        self._begun: list[Future[Tensor]] = []
        self._waiting: list[Answer] = []

    def add(self, answers: Sequence[Answer]) -> None:
        """Answers to score."""
        if self._thread is None:
            self._waiting += answers
        else:
            self._begun.append(self._thread.submit(self._score, list(answers)))

    def scores(self) -> Tensor:
        """Of all that was added since the last call; what a reward raises is raised here."""
        begun, self._begun = self._begun, []
        waiting, self._waiting = self._waiting, []
        if self._thread is None:
            return self.reward.score(waiting)
        try:
            return torch.cat([each.result() for each in begun])
        finally:
            for each in begun:
                each.cancel()

    def _score(self, answers: list[Answer]) -> Tensor:
        return self.reward.score(answers)
