"""Batches of items as rows: single texts packed several to a row, several answers behind their one prompt.

Either way a text is scored as in a row of its own: attention and positions restart. Shapes: R rows, T time, A answers
of all items in a batch, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trine.data.packing import AnswerRows, fit_rows, pack, pack_answers
from trine.data.rows import Batch
from trine.model.heads import ScoreModel
from trine.records import TokenSpan
from trine.stages.preferences.reward_items import Item, with_places

ITEMS_SCORED_AT_ONCE = 32


@dataclass(frozen=True)
class RewardBatch:
    """Items, and the rows that hold their answers.

    `packed` with `packed_ends` [A1, 2] (row, column) holds the texts that stand alone, `shared` with `shared_ends`
    [A2, 2] (row, place in its `ends`) those behind a common prompt; `order` [A] puts the scores of both, one after the
    other, in the order of the items' answers.
    """

    items: Sequence[Item]
    packed: Batch | None
    packed_ends: Tensor
    shared: AnswerRows | None
    shared_ends: Tensor
    order: Tensor

    def to(self, device: torch.device) -> "RewardBatch":
        ends = self.packed_ends.to(device), self.shared_ends.to(device)
        packed = None if self.packed is None else self.packed.to(device)
        shared = None if self.shared is None else self.shared.to(device)
        return RewardBatch(self.items, packed, ends[0], shared, ends[1], self.order.to(device))


def pack_items(items: Sequence[Item], context: int) -> RewardBatch:
    """Rows of single texts of at most `context` tokens; those of several answers of two contexts, if they need it."""
    alone = [place for place, item in enumerate(items) if len(item.answers) == 1]
    several = [place for place, item in enumerate(items) if len(item.answers) > 1]
    packed, packed_ends = _pack_texts([[*items[at].prompt, *items[at].answers[0]] for at in alone], context)
    rows, owners = _shared_rows([items[at] for at in several], context)
    firsts = [first for _, first in with_places(items)]
    answers = [firsts[at] for at in alone] + [firsts[several[item]] + answer for item, answer, _, _ in owners]
    order = torch.empty(len(answers), dtype=torch.int64)
    order[answers] = torch.arange(len(answers))
    ends = torch.tensor([(row, column) for _, _, row, column in owners], dtype=torch.int64).view(-1, 2)
    return RewardBatch(items, packed, packed_ends, pack_answers(rows) if rows else None, ends, order)


def _pack_texts(texts: list[list[int]], context: int) -> tuple[Batch | None, Tensor]:
    """The texts best fit in rows, and the row and column of each one's last token."""
    if not texts:
        return None, torch.empty(0, 2, dtype=torch.int64)
    lengths = [len(text) for text in texts]
    rows = fit_rows(lengths, max(context, *lengths))
    ends = torch.empty(len(texts), 2, dtype=torch.int64)
    for row, places in enumerate(rows):
        filled = 0
        for place in places:
            filled += lengths[place]
            ends[place, 0], ends[place, 1] = row, filled - 1
    width = max(sum(lengths[place] for place in places) for places in rows)
    return pack([TokenSpan(tuple(text), (False,) * len(text)) for text in texts], rows, width, 0.0), ends


def _shared_rows(items: Sequence[Item], context: int) -> tuple[list[list[list[int]]], list[tuple[int, int, int, int]]]:
    """Rows of a prompt and its answers, and (item, answer, row, place in the row) of every answer.

    An item is one row, unless that would be longer than two contexts; then its answers are divided among several.
    """
    rows: list[list[list[int]]] = []
    owners = []
    for number, item in enumerate(items):
        rows.append([item.prompt])
        for place, answer in enumerate(item.answers):
            if len(rows[-1]) > 1 and sum(map(len, rows[-1])) + len(answer) > 2 * context:
                rows.append([item.prompt])
            owners.append((number, place, len(rows) - 1, len(rows[-1]) - 1))
            rows[-1].append(answer)
    return rows, owners


class AnswerScores(nn.Module):
    """The scores of a batch's answers in one forward pass, which is what DDP can wrap.

    (FSDP cannot: the processes of a step would gather the weights once for the packed and once for the shared rows, and
    not all of them have both.)
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: RewardBatch) -> Tensor:
        """[A], fp32, in the order of the items' answers."""
        parts = []
        if batch.packed is not None:
            rows: Any = batch.packed
            hidden = self.model.trunk(rows.ids, positions=rows.positions, starts=rows.starts)
            states = hidden[batch.packed_ends[:, 0], batch.packed_ends[:, 1]]
            parts.append(self.model.head(states) + self.model.offset)
        if batch.shared is not None:
            shared = batch.shared
            seen = {"positions": shared.positions, "segments": shared.segments}
            scores = self.model(shared.ids, shared.ends, **seen)  # [R, k]
            parts.append(scores[batch.shared_ends[:, 0], batch.shared_ends[:, 1]])
        return torch.cat(parts)[batch.order]


@torch.no_grad()
def score_items(
    module: nn.Module, items: Sequence[Item], context: int, device: torch.device
) -> list[tuple[float, ...]]:
    """The scores of each item's answers, in the order given; items of like length are read together.

    `module`: an `AnswerScores`, wrapped for several processes or not.
    """
    scores: list[tuple[float, ...]] = [()] * len(items)
    order = sorted(range(len(items)), key=lambda place: items[place].tokens)
    for start in range(0, len(order), ITEMS_SCORED_AT_ONCE):
        chosen = order[start : start + ITEMS_SCORED_AT_ONCE]
        batch = pack_items([items[place] for place in chosen], context).to(device)
        found = module(batch).cpu().tolist()
        for place, (item, first) in zip(chosen, with_places(batch.items), strict=True):
            scores[place] = tuple(found[first : first + len(item.answers)])
    return scores
