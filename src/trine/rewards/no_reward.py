"""No reward at all: what is left to learn from is the KL penalty against a reference, as in on-policy distillation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trine.records import Answer


class NoReward:
    """Scores everything 0::

    scores = NoReward().score(answers)  # [B]
    """

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 zeros [B]."""
        return torch.zeros(len(answers))
