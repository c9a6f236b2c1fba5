"""Which examples share an optimizer step, three ways to fill the same number of positions; and their rows laid out."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.our_step import Rows
from trine.data.packing import fit_rows, pack, pad
from trine.records import TokenSpan

Step = list[list[int]]
"""The items of each row of a step."""


def packed_steps(lengths: Sequence[int], row_tokens: int, positions: int) -> list[Step]:
    """Rows filled best-fit, `positions` / `row_tokens` rows a step, in shuffled order."""
    rows = fit_rows(lengths, row_tokens)
    random.Random(0).shuffle(rows)
    size = positions // row_tokens
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded_steps(lengths: Sequence[int], positions: int, *, grouped: bool) -> list[Step]:
    """One example a row, padded to the longest of its step: as many rows as fit `positions` so.

    In shuffled order; `grouped`, longest first over all examples, which wastes the least a rectangle can, and the
    steps shuffled afterwards.
    """
    order = list(range(len(lengths)))
    random.Random(0).shuffle(order)
    if grouped:
        order.sort(key=lambda item: -lengths[item])
    steps: list[Step] = []
    longest = 0
    for item in order:
        longest = max(longest, lengths[item])
        if not steps or (len(steps[-1]) + 1) * longest > positions:
            steps.append([])
            longest = lengths[item]
        steps[-1].append([item])
    random.Random(1).shuffle(steps)
    return steps


def packed_rows(spans: Sequence[TokenSpan], step: Step, row_tokens: int) -> Rows:
    """Several examples a row; attention and positions restart in each."""
    packed = pack(spans, step, row_tokens, 1.0)
    return Rows(packed.ids, packed.ids.roll(-1, 1), _one_earlier(packed.weights), packed)


def padded_rows(spans: Sequence[TokenSpan], step: Step) -> Rows:
    """One example a row. Padding is on the right, where no token of the example sees it: no mask is needed."""
    ids, lengths = pad([spans[item].ids for (item,) in step], 0)
    places = torch.arange(ids.shape[1])
    weights = ((places > 0) & (places < lengths.unsqueeze(1))).float()
    return Rows(ids, ids.roll(-1, 1), _one_earlier(weights))


def _one_earlier(weights: Tensor) -> Tensor:
    """A target's weight at the position that predicts it."""
    shifted = weights.roll(-1, 1)
    shifted[:, -1] = 0.0
    return shifted
