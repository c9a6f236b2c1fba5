"""Batches of unequal examples: packed, padded, or padded and grouped by length, of the same number of positions."""

import random
from collections.abc import Sequence

import torch

from trine.data.packing import fit_rows, pack, pad
from trine.data.rows import Batch
from trine.records import TokenSpan

Step = list[list[int]]
"""The examples in each row of a step."""


def packed_steps(lengths: Sequence[int], row_tokens: int, positions: int) -> list[Step]:
    """Rows filled best-fit, `positions` / `row_tokens` rows a step, in shuffled order."""
    rows = fit_rows(lengths, row_tokens)
    random.Random(0).shuffle(rows)
    size = positions // row_tokens
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded_steps(lengths: Sequence[int], positions: int, *, grouped: bool) -> list[Step]:
    """One example per row, padded to the longest of its step, with as many rows as fit into `positions`.

    Examples are shuffled; if `grouped`, sorted by length, which minimizes padding, and then the steps are shuffled.
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


def packed_rows(spans: Sequence[TokenSpan], step: Step, row_tokens: int) -> Batch:
    """Several examples per row; attention and positions restart in each."""
    return pack(spans, step, row_tokens, 1.0)


def padded_rows(spans: Sequence[TokenSpan], step: Step) -> Batch:
    """One example per row, padded on the right, where causal attention needs no mask."""
    ids, lengths = pad([spans[item].ids for (item,) in step], 0)
    places = torch.arange(ids.shape[1])
    weights = (places < lengths.unsqueeze(1) - 1).float()
    return Batch(ids, ids.roll(-1, 1), weights, float(weights.sum()))
