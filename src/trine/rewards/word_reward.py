"""A reward that reads the words of an answer: the model of `word_scores.py` behind the interface of all rewards.

It is the floor that reward models are compared with, and one that PPO never saw. A cut text is read as far as it goes:
there is no end token. Of a conversation the answer alone is read, of plain text all of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trine.records import Answer
from trine.rewards.word_scores import WordScorer


class WordReward:
    """Log-odds (of labels), standardised scores or differences (of pairs) by words::

    targets = WordTargets(np.arange(2), np.array([1.0, 0.0]), np.ones(2))  # one good text, one bad one
    reward = WordReward(WordScorer.fit(["a good film", "a bad film"], targets, min_count=1))
    scores = reward.score(answers)  # [B]
    """

    def __init__(self, scorer: WordScorer) -> None:
        self.scorer = scorer

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]."""
        return torch.from_numpy(self.scorer.score([words_read(answer) for answer in answers])).float()

    def explain(self, answer: Answer, most: int = 10) -> list[tuple[str, float]]:
        """The words that decided, with what each adds to the score."""
        return self.scorer.explain(words_read(answer), most)


def words_read(answer: Answer) -> str:
    """The text whose words count."""
    return (answer.query or "") + answer.response
