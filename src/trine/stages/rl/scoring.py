"""Scoring while something else runs: a slow reward in a thread of its own, beside sampling and log-probabilities.

One thread, so that the calls of a reward come one after the other and in order; what they return depends on nothing
that runs beside them. PyTorch's work leaves Python to the thread meanwhile, and so does waiting for a network.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from trine.algorithms.text_rewards import moved_to_tokens
from trine.records import Answer
from trine.rewards.base import DetailedReward, Reward, Scored, TokenReward, joined, scored
from trine.runtime.distributed import World


class Scorer:
    """Scores the answers of an iteration, part by part::

        def short(prompts, responses):
            return [-len(response) for response in responses]

        scorer = Scorer(FunctionReward(short, "short"), background=True)
        scorer.add(answers[:1])
        scorer.add(answers[1:])
        scores = scorer.scores()  # [B], in the order in which they were added

    In the background each part is begun when it is added; else all are scored in one call of the reward, by `scores`.
    `token_scores`: of a per-token reward those of the last `scores`, one list an answer.
    """

    def __init__(self, reward: Reward, *, background: bool) -> None:
        self.reward = reward
        self.token_scores: list[list[float]] | None = None
        self._thread = ThreadPoolExecutor(1, "trine reward") if background else None
        self._begun: list[Future[Scored]] = []
        self._waiting: list[Answer] = []

    def add(self, answers: Sequence[Answer]) -> None:
        """Answers to score."""
        self._waiting += answers
        if self._thread is not None:
            self._begun.append(self._thread.submit(scored, self.reward, list(answers)))

    def scores(self) -> Tensor:
        """Of all that was added since the last call; what a reward raises is raised here."""
        begun, self._begun = self._begun, []
        waiting, self._waiting = self._waiting, []
        if self._thread is None:
            found = scored(self.reward, waiting)
        else:
            found = self._collected(begun)
            if isinstance(self.reward, DetailedReward):
                self.reward.remember(waiting, found)  # who asks for its parts need not ask it again
        self.token_scores = found.token_scores
        return found.scores

    def _collected(self, begun: Sequence[Future[Scored]]) -> Scored:
        try:
            return joined([each.result() for each in begun])
        finally:
            for each in begun:
                each.cancel()


def moved_scores(scorer: Scorer, mask: Tensor, world: World) -> Tensor | None:
    """[B, R] of all processes: what a per-token reward's scores become at their tokens; None of any other reward.

    Token scores are of the response's last tokens under `mask`: in a conversation, those of the last turn.
    """
    if not isinstance(scorer.reward, TokenReward) or (world.size == 1 and scorer.token_scores is None):
        return None
    first, count = world.share(len(mask), "batch_size")
    own = torch.zeros(count, mask.shape[1])
    for row, tokens in enumerate(scorer.token_scores or ()):
        places = mask[first + row].nonzero().flatten()
        own[row, places[len(places) - len(tokens) :]] = torch.tensor(tokens)
    return moved_to_tokens(world.all_gather(own.to(world.device)).cpu(), mask)
