"""Scores seen within groups: all answers to one prompt.

Shapes: B answers; `groups` [B] numbers each one's group. NaN marks a score that there is not, and stays out of all.
"""

import torch
from torch import Tensor

EPSILON = 1e-4


def group_moments(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """For each answer the mean [B] of its group and what to divide by: deviation (n - 1) plus 1e-4, fp64.

    >>> mean, divisor = group_moments(torch.tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1]))
    >>> mean.tolist(), divisor.sub(EPSILON).square().round().tolist()
    ([2.0, 2.0, 5.0, 5.0], [2.0, 2.0, 0.0, 0.0])

    The normalisation of GRPO (Shao et al. 2024) and, of each part of a sum, of GDPO (Liu et al. 2026, eq. 4).
    """
    _, places = groups.unique(return_inverse=True)
    known, values = ~scores.isnan(), scores.double().nan_to_num(0.0)
    empty = torch.zeros(int(places.max()) + 1 if len(places) else 0, dtype=torch.float64)
    counts = empty.index_add(0, places, known.double())
    mean = (empty.index_add(0, places, values) / counts.clamp(min=1))[places]
    off = torch.where(known, values - mean, 0.0)
    off = torch.where(off.abs() > 1e-12 * values.abs(), off, 0.0)  # equal scores differ from their mean by rounding
    squares = empty.index_add(0, places, off.square())
    return mean, (squares / (counts - 1).clamp(min=1)).sqrt()[places] + EPSILON


def shares_won(wins: Tensor) -> Tensor:
    """[B]: of the others in its group the share that each answer beats.

    `wins` [B, B] holds 1 where the row's answer beats the column's, 0 where it loses, 0.5 of a tie, NaN where the two
    were not compared. NaN for an answer that was compared with none. (The win rate of Borda's count.)

    >>> shares_won(torch.tensor([[torch.nan, 1.0, 0.5], [0.0, torch.nan, 1.0], [0.5, 0.0, torch.nan]])).tolist()
    [0.75, 0.5, 0.25]
    """
    return wins.nanmean(1)
