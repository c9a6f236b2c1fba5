"""Training rows as tensors, read at random from memory-mapped shards. Shapes: R rows, T row length.

A row is a function of its number, and which rows a step reads is a function of the step (`mixing.py`), so that nothing
but the step has to be saved. A rank of several reads its part of the global batch: `rows(start + rank * n, n)`.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trine.data.mixing import MixedOrder, RowOrder, RunOrder
from trine.data.row_tables import Packing, RowTable, open_row_table
from trine.data.shards import Shard
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Batch:
    """Inputs and what follows them.

    `ids`, `targets` [R, T] int64; `weights` [R, T] fp32, 0 where there is nothing to predict; `count` their sum.
    `positions`, `starts` [R, T] int64, None where a row is one run of text: position t of a row sees the positions
    starts[t] ... t.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    count: float
    positions: Tensor | None = None
    starts: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        tensors = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **tensors)  # type: ignore[arg-type]

    def split(self, rows: int) -> "list[Batch]":
        """The same rows, at most `rows` of them at a time."""
        parts = {name: value.split(rows) for name, value in self._tensors().items()}
        return [
            replace(self, count=float(weights.sum()), **{name: part[i] for name, part in parts.items()})  # type: ignore[arg-type]
            for i, weights in enumerate(parts["weights"])
        ]

    def without_weight(self) -> "Batch":
        """The same rows, none of which counts."""
        return replace(self, weights=torch.zeros_like(self.weights), count=0.0)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"ids": self.ids, "targets": self.targets, "weights": self.weights}
        if self.positions is not None and self.starts is not None:
            tensors |= {"positions": self.positions, "starts": self.starts}
        return tensors


def window_batch(windows: Tensor) -> Batch:
    """Windows of T + 1 tokens [R, T + 1], every token but the first a target."""
    targets = windows[:, 1:]
    return Batch(windows[:, :-1], targets, torch.ones(targets.shape), float(targets.numel()))


class Rows(Protocol):
    """Rows by number; `counts`: how many each source has, one after the other.

    `dropped_share`: of all (input, target) pairs, those that no row holds; `padded_share`: of all places, the empty.
    """

    counts: tuple[int, ...]
    dropped_share: float
    padded_share: float

    def take(self, numbers: NDArray[np.int64]) -> Batch: ...


class StreamRows:
    """Windows of T + 1 tokens over whole runs of documents: row i of a run holds its tokens [i T, (i + 1) T].

    `runs`: first token and number of tokens of each source's run; by default all of `ids` is one run.
    """

    def __init__(self, ids: NDArray[np.integer], length: int, runs: tuple[tuple[int, int], ...] = ()) -> None:
        runs = runs or ((0, len(ids)),)
        self.ids, self.length = ids, length
        self.counts = tuple(max(tokens - 1, 0) // length for _, tokens in runs)
        self._first_tokens = np.array([first for first, _ in runs], np.int64)
        self._first_rows = np.cumsum((0, *self.counts[:-1]))
        self.dropped_share = 1 - sum(self.counts) * length / max(len(ids) - 1, 1)
        self.padded_share = 0.0

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """See `Rows`."""
        run = np.searchsorted(self._first_rows, numbers, "right") - 1
        first = self._first_tokens[run] + (numbers - self._first_rows[run]) * self.length
        windows = self.ids[first[:, None] + np.arange(self.length + 1)]
        return window_batch(torch.from_numpy(windows.astype(np.int64)))


class TableRows:
    """Rows of a `RowTable`; `padding` is the id that fills what is left of a row."""

    def __init__(self, ids: NDArray[np.integer], table: RowTable, padding: int) -> None:
        self.ids, self.table, self.padding = ids, table, padding
        self.counts, self.dropped_share, self.padded_share = table.source_rows, table.dropped_share, table.padded_share

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """See `Rows`."""
        begin, end = self.table.rows[numbers], self.table.rows[numbers + 1]
        sizes = end - begin
        pieces = self.table.pieces[_ranges(begin, sizes)]
        pairs = pieces["pairs"].astype(np.int64)
        before = np.cumsum(pairs) - pairs
        row = np.repeat(np.arange(len(numbers)), sizes)
        start = before - np.repeat(before[np.cumsum(sizes) - sizes], sizes)  # of a piece within its row
        source = _ranges(pieces["first"].astype(np.int64), pairs)
        place = _ranges(row * self.table.row_length + start, pairs)
        return self._batch(len(numbers), source, place, np.repeat(start, pairs))

    def _batch(self, rows: int, source: NDArray[np.int64], place: NDArray[np.int64], start: NDArray[np.int64]) -> Batch:
        """Pairs from the places `source` of the shard at the places `place` of the rows, laid flat."""
        shape = (rows, self.table.row_length)
        ids, targets = (np.full(shape, self.padding, np.int64) for _ in range(2))
        columns = np.broadcast_to(np.arange(shape[1]), shape)
        starts, weights = columns.copy(), np.zeros(shape, np.float32)  # a padding position sees itself
        ids.flat[place], targets.flat[place] = self.ids[source], self.ids[source + 1]
        weights.flat[place], starts.flat[place] = 1.0, start
        tensor = torch.from_numpy
        return Batch(
            tensor(ids), tensor(targets), tensor(weights), float(len(place)), tensor(columns - starts), tensor(starts)
        )  # fmt: skip


class WindowTableRows(TableRows):
    """Rows that are one window of a document each: T tokens, of which all but the first are targets.

    Nothing is to be predicted at a row's last place, whose token stands there all the same, as in the course's model.
    """

    def __init__(self, ids: NDArray[np.integer], table: RowTable, padding: int) -> None:
        super().__init__(ids, table, padding)
        self.padded_share = 0.0

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """See `Rows`."""
        first = self.table.pieces["first"][numbers]
        windows = self.ids[first[:, None] + np.arange(self.table.row_length + 1)].astype(np.int64)
        batch = window_batch(torch.from_numpy(windows))
        batch.weights[:, -1] = 0
        return replace(batch, count=float(len(numbers) * (self.table.row_length - 1)))


def _ranges(firsts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """firsts[0], firsts[0] + 1, ... (counts[0] numbers), then firsts[1], ..."""
    shift = firsts - (np.cumsum(counts) - counts)
    return np.repeat(shift, counts) + np.arange(counts.sum())


@dataclass(frozen=True)
class RowSampler:
    """The endless sequence of training rows."""

    source: Rows
    order: RowOrder

    def rows(self, start: int, count: int) -> Batch:
        """Rows number `start` ... of the sequence, a function of the numbers alone."""
        return self.source.take(self.order.indices(start, count))


def stream_sampler(ids: NDArray[np.integer], length: int, seed: int) -> RowSampler:
    """Windows over all of `ids` as one run."""
    rows = StreamRows(ids, length)
    _check(rows, len(ids), length)
    return RowSampler(rows, RunOrder(rows.counts[0], seed))


def open_sampler(
    shard: Shard, packing: Packing | Literal["stream"], length: int, seed: int, weights: tuple[float, ...], padding: int
) -> RowSampler:
    """Rows of T of a training shard, cut and mixed as asked; makes the table of rows at first use."""
    if packing == "stream" and all(weight == 1 for weight in weights):
        return stream_sampler(shard.ids, length, seed)
    rows: Rows
    if packing == "stream":
        rows = StreamRows(shard.ids, length, shard.source_runs())
    elif packing == "windows":
        rows = WindowTableRows(shard.ids, open_row_table(shard, "windows", length), padding)
    else:
        rows = TableRows(shard.ids, open_row_table(shard, "packed", length), padding)
    _check(rows, shard.tokens, length)
    return RowSampler(rows, MixedOrder(rows.counts, weights, seed))


def _check(rows: Rows, tokens: int, length: int) -> None:
    if tokens <= length:
        raise TrineError(
            f"the corpus has {tokens:,} tokens, fewer than one row of {length} + 1; "
            "give more text or a smaller row_tokens"
        )
    if not sum(rows.counts):
        raise TrineError(
            f"no document of the corpus fills a row: windows of {length:,} tokens are cut from single documents, and "
            f"all of its {tokens:,} tokens are in shorter ones; give packing: packed, which puts several documents "
            "into a row, or a smaller row_tokens"
        )
