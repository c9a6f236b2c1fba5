"""Several examples in one row: attention and positions restart in each, so that packed equals padded.

The rows are a `Batch`, as pretraining's are, so that fine-tuning takes the same attention and the same loss.

Rows of unequal examples waste half their places as padding; packed best-fit they waste a few percent
(docs/LOG.md). Shapes: R rows, T row length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trine.data.rows import Batch
from trine.records import TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for


def fit_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Assign items to rows of `row_length`, best fit, longest first; returns the items of each row.

    Deterministic. Raises `TrineError` when an item is longer than a row.
    """
    rows: list[list[int]] = []
    rows_with_room: dict[int, list[int]] = {}
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[item]
        if length > row_length:
            raise TrineError(f"an example of {length} tokens does not fit a row of {row_length}")
        room = next((room for room in range(length, row_length + 1) if rows_with_room.get(room)), None)
        if room is None:
            rows.append([item])
            row, room = len(rows) - 1, row_length
        else:
            row = rows_with_room[room].pop()
            rows[row].append(item)
        rows_with_room.setdefault(room - length, []).append(row)
    return rows


def pack(spans: Sequence[TokenSpan], rows: Sequence[Sequence[int]], row_length: int, context_weight: float) -> Batch:
    """The spans laid out: row r holds `spans[i]` for i in `rows[r]`, one after the other.

    Trained tokens weigh 1 as targets, the others `context_weight`, a span's first token 0: nothing before it predicts
    it.
    """
    shape = (len(rows), row_length)
    ids, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    columns = np.broadcast_to(np.arange(row_length), shape)
    starts = columns.copy()  # a padding position sees itself, so that no softmax is over nothing
    for row, items in enumerate(rows):
        start = 0
        for span in (spans[item] for item in items):
            end = start + len(span.ids)
            ids[row, start:end], starts[row, start:end] = span.ids, start
            weights[row, start : end - 1] = np.where(span.trained[1:], 1.0, context_weight)
            start = end
    tensor = torch.from_numpy
    return Batch(
        tensor(ids), tensor(np.roll(ids, -1, 1)), tensor(weights), float(weights.sum()),
        tensor(columns - starts), tensor(starts),
    )  # fmt: skip


class PackedExamples:
    """Rows of examples in a seeded order: each epoch packs and orders them anew."""

    def __init__(self, spans: list[TokenSpan], row_tokens: int, seed: int) -> None:
        self.spans, self.row_tokens, self.seed = spans, row_tokens, seed
        self.rows_per_epoch = len(self._fit(0))
        self._epoch, self._rows = -1, [[0]]

    @property
    def padding_share(self) -> float:
        """Share of an epoch's places that no token fills."""
        return 1 - sum(len(span.ids) for span in self.spans) / (self.rows_per_epoch * self.row_tokens)

    def _fit(self, epoch: int) -> list[list[int]]:
        """Every epoch's rows have the same count: fitting depends on lengths; ties and row order on the epoch."""
        order = generator_for(self.seed, "epoch", epoch).permutation(len(self.spans))
        rows = fit_rows([len(self.spans[int(index)].ids) for index in order], self.row_tokens)
        shuffled = generator_for(self.seed, "rows", epoch).permutation(len(rows))
        return [[int(order[item]) for item in rows[int(row)]] for row in shuffled]

    def row(self, index: int) -> list[int]:
        """Row number `index` of the endless sequence."""
        epoch, place = divmod(index, self.rows_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._fit(epoch)
        return self._rows[place]


def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, T] and lengths [B]."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ids = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids, lengths


@dataclass(frozen=True)
class AnswerRows:
    """A prompt and answers to it in one row: the prompt is read once, the answers do not see each other.

    `ids`, `positions` [R, T]; `segments` [R, T]: 0 prompt, 1 to k the answers, -1 padding; `ends` [R, k] the column of
    each answer's last token, 0 where a row has fewer than k.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    ends: Tensor

    def to(self, device: torch.device) -> "AnswerRows":
        return AnswerRows(*(tensor.to(device) for tensor in (self.ids, self.positions, self.segments, self.ends)))


def pack_answers(rows: Sequence[Sequence[Sequence[int]]]) -> AnswerRows:
    """Lay out rows of a prompt and its answers, right-padded to the longest."""
    width, most = max(sum(len(part) for part in row) for row in rows), max(len(row) - 1 for row in rows)
    ids, positions = (np.zeros((len(rows), width), np.int64) for _ in range(2))
    segments, ends = np.full((len(rows), width), -1, np.int64), np.zeros((len(rows), most), np.int64)
    for row, (prompt, *answers) in enumerate(rows):
        start = len(prompt)
        ids[row, :start], positions[row, :start], segments[row, :start] = prompt, np.arange(start), 0
        for number, answer in enumerate(answers, 1):
            place = (row, slice(start, start + len(answer)))
            ids[place], segments[place] = answer, number
            positions[place] = len(prompt) + np.arange(len(answer))
            start += len(answer)
            ends[row, number - 1] = start - 1
    return AnswerRows(*(torch.from_numpy(array) for array in (ids, positions, segments, ends)))
