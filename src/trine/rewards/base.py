"""What a reward is: a number for every answer, higher is better.

A reward sees `Answer`s: the conversation, the text, whether it ended, the policy's token ids where they are known, and
the other fields of the prompt's record. It never sees a rollout, so that a reward with a tokenizer of its own, a Python
function and an endpoint all have one form.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from trine.records import Answer


class Reward(Protocol):
    """Scores answers::

    reward = ModelReward(model, tokenizer)
    scores = reward.score(answers)  # [B]
    """

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B] on the CPU, finite, in the order of `answers`."""
        ...
