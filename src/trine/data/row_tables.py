"""The division of documents into training rows, stored beside the shard as two memory-mapped arrays.

`pieces.bin`: a piece is a run of (input, target) pairs of one document, the first input's place in the shard and the
number of pairs. `rows.bin`: row r consists of the pieces rows[r] ... rows[r + 1] - 1. Rows of a source are consecutive.

- `windows` (the Hugging Face course's codeparrot, chapter 7.6): every document, without an end token, is split into
  windows of T tokens, T - 1 pairs each; the remainder is dropped.
- `packed`: a document of n tokens, its end token included, has n - 1 pairs, cut into pieces of at most T; the pieces
  are packed best-fit, longest first, into rows of T, a group of documents at a time so that memory does not depend on
  the corpus (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"). No pair is dropped or repeated.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trine.data.shards import Shard, mapped
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_folder, write_json
from trine.runtime.lock import folder_lock
from trine.runtime.progress import say

Packing = Literal["windows", "packed"]
PIECE = np.dtype([("first", "<i8"), ("pairs", "<i4")])
DOCUMENTS_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class RowTable:
    """`pieces` [P] of `PIECE`; `rows` [R + 1]; `source_rows` [sources], how many rows each has; `pairs` in all."""

    row_length: int
    pieces: NDArray[np.void]
    rows: NDArray[np.int64]
    source_rows: tuple[int, ...]
    pairs: int
    pairs_of_shard: int

    @property
    def dropped_share(self) -> float:
        """Share of the shard's pairs that no row holds."""
        return 1 - self.pairs / max(self.pairs_of_shard, 1)

    @property
    def padded_share(self) -> float:
        """Share of the rows' places that hold no pair."""
        return 1 - self.pairs / max((len(self.rows) - 1) * self.row_length, 1)


def open_row_table(shard: Shard, packing: Packing, row_length: int) -> RowTable:
    """The rows of `shard`, computed at first use and then stored."""
    folder = shard.folder / f"rows-{packing}-{row_length}"
    cut = window_rows if packing == "windows" else packed_rows
    stored = _stored(folder, row_length, shard)
    if stored is not None:
        return stored
    try:
        with folder_lock(shard.folder, wait=True):  # another run may be computing the same table
            if _stored(folder, row_length, shard) is None:
                write_folder(folder, lambda aside: _write(aside, shard, row_length, cut))
    except TrineError as error:  # a read-only or full disk
        say(f"the rows of {shard.folder} are kept in memory for this run: {error}")
        return _in_memory(shard, row_length, cut)
    written = _stored(folder, row_length, shard)
    assert written is not None
    return written


def _stored(folder: Path, row_length: int, shard: Shard) -> RowTable | None:
    """The table in `folder`; None if there is none, or it is damaged or another shard's: it is computed again."""
    if not (folder / "table.json").exists():
        return None
    try:
        described = read_json(folder / "table.json")
        source_rows, pairs = tuple(described["source_rows"]), described["pairs"]
        rows = mapped(folder / "rows.bin", np.dtype("<i8"), sum(source_rows) + 1)
        pieces = mapped(folder / "pieces.bin", PIECE, int(rows[-1]))
        if described["pairs_of_shard"] != shard.tokens - shard.document_count or not _inside(pieces, rows, shard):
            raise TrineError(f"{folder} holds rows of other text")
        return RowTable(row_length, pieces, rows, source_rows, pairs, described["pairs_of_shard"])
    except (TrineError, KeyError, TypeError, ValueError) as error:
        say(f"the rows of {shard.folder} are computed again: {error}")
        return None


def _inside(pieces: NDArray[np.void], rows: NDArray[np.int64], shard: Shard) -> bool:
    """Whether rows follow each other and all pieces lie inside the shard."""
    if rows[0] != 0 or (np.diff(rows) < 0).any():
        return False
    ends = pieces["first"] + pieces["pairs"]
    return not len(pieces) or bool(
        pieces["first"].min() >= 0 and pieces["pairs"].min() > 0 and ends.max() < shard.tokens
    )


def _in_memory(shard: Shard, row_length: int, cut: "Cut") -> RowTable:
    pieces, rows = io.BytesIO(), io.BytesIO()
    described = _cut_rows(shard, row_length, cut, pieces, rows)
    return RowTable(
        row_length, np.frombuffer(pieces.getvalue(), PIECE), np.frombuffer(rows.getvalue(), "<i8"),
        tuple(described["source_rows"]), described["pairs"], described["pairs_of_shard"],
    )  # fmt: skip


Cut = Callable[[NDArray[np.int64], NDArray[np.int64], int], tuple[NDArray[np.void], NDArray[np.int64]]]


def _write(folder: Path, shard: Shard, row_length: int, cut: Cut) -> None:
    with open(folder / "pieces.bin", "wb") as pieces, open(folder / "rows.bin", "wb") as rows:
        described = _cut_rows(shard, row_length, cut, pieces, rows)
    write_json(folder / "table.json", described)


def _cut_rows(shard: Shard, row_length: int, cut: Cut, pieces_file: IO[bytes], rows_file: IO[bytes]) -> dict[str, Any]:
    """Write pieces and rows a group of documents at a time; returns the table's description."""
    source_rows, pieces, pairs = [], 0, 0
    rows_file.write(np.zeros(1, "<i8").tobytes())
    for documents in shard.documents_by_source():
        source_rows.append(0)
        for first, tokens in _groups(documents):
            cut_pieces, row_sizes = cut(first, tokens, row_length)
            _append(pieces_file, cut_pieces)
            _append(rows_file, pieces + np.cumsum(row_sizes, dtype="<i8"))
            pieces += len(cut_pieces)
            pairs += int(cut_pieces["pairs"].sum(dtype=np.int64))
            source_rows[-1] += len(row_sizes)
    return {"source_rows": source_rows, "pairs": pairs, "pairs_of_shard": shard.tokens - shard.document_count}


def _append(file: IO[bytes], array: NDArray[np.generic]) -> None:
    file.write(array.tobytes())


def _groups(documents: NDArray[np.void]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for start in range(0, len(documents), DOCUMENTS_AT_A_TIME):
        group = documents[start : start + DOCUMENTS_AT_A_TIME]
        yield group["first"].astype(np.int64), group["tokens"].astype(np.int64)


def window_rows(
    first: NDArray[np.int64], tokens: NDArray[np.int64], row_length: int
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """The pieces and the number of pieces of each row, for documents at `first` with `tokens` tokens each."""
    counts = (tokens - 1) // row_length
    pieces = np.empty(counts.sum(), PIECE)
    pieces["first"] = _piece_starts(first, counts, row_length)
    pieces["pairs"] = row_length - 1
    return pieces, np.ones(len(pieces), np.int64)


def packed_rows(
    first: NDArray[np.int64], tokens: NDArray[np.int64], row_length: int
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """As `window_rows`: first the pieces that fill a row, then rows packed from the remainders."""
    whole, rest = np.divmod(tokens - 1, row_length)
    starts, left = _piece_starts(first, whole, row_length), np.flatnonzero(rest)
    order, row_sizes = best_fit(rest[left], row_length)
    pieces = np.empty(len(starts) + len(left), PIECE)
    pieces["first"][: len(starts)], pieces["pairs"][: len(starts)] = starts, row_length
    pieces["first"][len(starts) :] = (first + whole * row_length)[left][order]
    pieces["pairs"][len(starts) :] = rest[left][order]
    return pieces, np.concatenate([np.ones(len(starts), np.int64), row_sizes])


def _piece_starts(first: NDArray[np.int64], counts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Where each of `counts[i]` pieces of `length`, the first at `first[i]`, begins."""
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + numbers * length


def best_fit(lengths: NDArray[np.int64], row_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best-fit decreasing: the items in row order, and the number of items in each row of size T.

    Each item, longest first, goes to the fullest row where it fits. The rows are those of `packing.fit_rows`, the
    simple reference, at about a microsecond per item: the free spaces of all rows are the bits of one integer, so the
    smallest sufficient space is its lowest set bit at or above the item's length.
    """
    rows_with_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    rooms = rows = 0
    by_length = np.argsort(-lengths, kind="stable")
    row_of = []
    for length in lengths[by_length].tolist():
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms ^= 1 << room
        else:
            room, row, rows = row_length, rows, rows + 1
        row_of.append(row)
        if room > length:
            rows_with_room[room - length].append(row)
            rooms |= 1 << (room - length)
    row_numbers = np.array(row_of, np.int64)
    return by_length[np.argsort(row_numbers, kind="stable")], np.bincount(row_numbers, minlength=rows)
