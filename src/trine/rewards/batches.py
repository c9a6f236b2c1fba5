"""Rows of tokens to score, in batches that change no score.

In fp32 the score of a text is the same to the bit alone, padded, packed, in any batch and in any order. Matrix products
of the usual libraries are not like that: they choose their order of summation by the number of rows. So a model is
scored within `products.row_invariant`, by our own kernels, wherever it is made of shapes that these take; where it is
not (no compiler, odd widths, GPUs), each text is a batch of its own in fp32, without padding. In bf16 speed goes
before: texts are scored in batches, and `max_difference` says what that does.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trine.data.packing import pad
from trine.model.products import row_invariant
from trine.model.training_library import LANES, usable
from trine.model.transformer import Transformer
from trine.records import Answer
from trine.runtime.errors import TrineError

ROWS_AT_ONCE = 64
COMPARED = 16
"""texts whose scores alone are compared with those in batches"""
ScoreRows = Callable[[Tensor, Tensor], Tensor]
"""(ids [B, T], lengths [B]) -> scores [B]"""


@torch.no_grad()
def score_in_batches(
    rows: Sequence[Sequence[int]], score: ScoreRows, pad_id: int, device: torch.device, at_once: int
) -> Tensor:
    """fp32 scores [N] on the CPU of rows of tokens, those of like length together, right-padded."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = torch.empty(len(rows))
    with row_invariant():
        for start in range(0, len(order), at_once):
            batch = order[start : start + at_once]
            ids, lengths = (tensor.to(device) for tensor in pad([rows[index] for index in batch], pad_id))
            scores[batch] = score(ids, lengths).float().cpu()
    return scores


def rows_at_once(trunk: Transformer) -> int:
    """How many rows of `trunk` may be scored together: in fp32 one, unless no sum depends on the other rows."""
    return ROWS_AT_ONCE if trunk.compute_dtype != torch.float32 or is_row_invariant_model(trunk) else 1


def is_row_invariant_model(trunk: Transformer) -> bool:
    """Whether all products and attention of `trunk` are made by our own kernels within `products.row_invariant`."""
    config, like = trunk.config, trunk.embedding.weight
    return usable(like, config.width, config.head_dim, config.mlp_width, multiple=2 * LANES)


def max_difference(alone: Tensor, together: Tensor) -> float:
    """The largest absolute difference between scores of the same texts, [N] each."""
    return float((alone - together).abs().max()) if len(alone) else 0.0


def finite_scores(scores: Tensor, answers: Sequence[Answer], scorer: str) -> Tensor:
    """`scores` [B]; raises `TrineError` naming the first of `answers` that has none."""
    broken = (~scores.isfinite()).nonzero().flatten().tolist()
    if broken:
        raise TrineError(
            f"{scorer} scores {float(scores[broken[0]])} for the response {answers[broken[0]].response[:60]!r}; its "
            "weights, or products in bf16, leave the range of numbers"
        )
    return scores
