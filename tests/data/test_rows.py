"""Documents become training rows in three ways; none repeats a token, and one, the default, drops none either."""

import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.shard_by_hand import numbered_documents, shard_of
from tests.tiny import tiny_model
from trine.data import row_tables
from trine.data.packing import fit_rows
from trine.data.row_tables import best_fit, open_row_table
from trine.data.rows import Batch, RowSampler, TableRows, open_sampler, stream_sampler
from trine.runtime.errors import TrineError

PADDING = 9
FEW = settings(max_examples=30)
lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def sampler(folder: Path, lengths: list[int], packing: Any, row_length: int, seed: int = 0) -> RowSampler:
    """Two sources of equal weight; token ids are places in the shard."""
    half = len(lengths) // 2
    documents = numbered_documents(lengths)
    shard = shard_of(folder, [documents[:half], documents[half:]])
    return open_sampler(shard, packing, row_length, seed, (1.0, 1.0), PADDING)


def rows_of(sampled: RowSampler) -> int:
    return sum(sampled.source.counts)


def trained_pairs(batch: Batch) -> list[tuple[int, int]]:
    real = batch.weights > 0
    return list(zip(batch.ids[real].tolist(), batch.targets[real].tolist(), strict=True))


def epoch_pairs(sampled: RowSampler, epoch: int) -> list[tuple[int, int]]:
    """Everything trained in an epoch, read in steps that do not divide it."""
    rows, pairs = rows_of(sampled), []
    for start in range(0, rows, 7):
        pairs += trained_pairs(sampled.rows(epoch * rows + start, min(7, rows - start)))
    return pairs


@FEW
@given(lengths=lengths_of_documents, row_length=st.integers(2, 16), epoch=st.integers(0, 2))
def test_packed_rows_train_every_pair_of_every_document_once(lengths: list[int], row_length: int, epoch: int) -> None:
    expected = [pair for ids in numbered_documents(lengths) for pair in pairwise(ids)]
    with tempfile.TemporaryDirectory() as folder:
        if sum(lengths) <= row_length or not expected:
            with pytest.raises(TrineError, match="fewer than one row"):
                sampler(Path(folder), lengths, "packed", row_length)
            return
        assert Counter(epoch_pairs(sampler(Path(folder), lengths, "packed", row_length), epoch)) == Counter(expected)


@FEW
@given(lengths=lengths_of_documents, row_length=st.integers(2, 16))
def test_windows_lie_within_documents_and_the_rest_is_dropped(lengths: list[int], row_length: int) -> None:
    """As chapter 7.6 of the Hugging Face course: whole windows only, of the text without its end token."""
    windows = [
        tuple(ids[start : start + row_length])
        for ids in numbered_documents(lengths)
        for start in range(0, len(ids) - 1 - row_length + 1, row_length)
    ]
    with tempfile.TemporaryDirectory() as folder:
        if not windows:
            return
        sampled = sampler(Path(folder), lengths, "windows", row_length)
        batch = sampled.rows(0, rows_of(sampled))
        assert Counter(map(tuple, batch.ids.tolist())) == Counter(windows)
        pairs = [pair for window in windows for pair in pairwise(window)]
        assert Counter(trained_pairs(batch)) == Counter(pairs)
        assert batch.count == len(pairs) and batch.starts is None


@FEW
@given(
    lengths=lengths_of_documents, row_length=st.integers(2, 16), packing=st.sampled_from(["packed", "stream"]),
    start=st.integers(0, 50), count=st.integers(1, 20),
)  # fmt: skip
def test_rows_are_a_function_of_their_number(
    lengths: list[int], row_length: int, packing: str, start: int, count: int
) -> None:
    """Also where an epoch ends, and for the part of a batch that one rank of two reads."""
    if sum(lengths) <= row_length or max(lengths) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = sampler(Path(folder), lengths, packing, row_length).rows(0, 70)
        part = sampler(Path(folder), lengths, packing, row_length).rows(start, count)
        for name in ("ids", "targets", "weights"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[start : start + count])


def test_the_places_of_a_packed_row_say_where_their_document_begins(tmp_path: Path) -> None:
    """One source: 3 + 1 pairs fill a row of 4; two pairs and two places of padding, which see themselves."""
    shard = shard_of(tmp_path, [numbered_documents([4, 2, 3])])
    rows = TableRows(shard.ids, open_row_table(shard, "packed", 4), PADDING)
    batch = rows.take(np.arange(2))
    assert batch.ids.tolist() == [[0, 1, 2, 4], [6, 7, PADDING, PADDING]]
    assert batch.targets.tolist() == [[1, 2, 3, 5], [7, 8, PADDING, PADDING]]
    assert batch.weights.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]] and batch.count == 6
    assert batch.positions is not None and batch.positions.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert batch.starts is not None and batch.starts.tolist() == [[0, 0, 0, 3], [0, 0, 2, 3]]


def test_a_model_reads_a_packed_row_as_it_reads_each_document_alone(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    shard = shard_of(tmp_path, [numbered_documents([5, 4, 9, 3])])
    table = open_row_table(shard, "packed", 8)
    batch = TableRows(shard.ids, table, PADDING).take(np.arange(len(table.rows) - 1))
    with torch.no_grad():
        together = model(batch.ids, positions=batch.positions, starts=batch.starts)
        for piece in table.pieces:
            ids = torch.arange(piece["first"], piece["first"] + piece["pairs"])
            row, column = (batch.ids == ids[0]).nonzero()[0].tolist()
            alone = model(ids[None])[0]
            torch.testing.assert_close(together[row, column : column + len(ids)], alone, rtol=1e-4, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 24), max_size=80))
def test_fast_best_fit_makes_the_rows_of_the_plain_one(lengths: list[int]) -> None:
    order, sizes = best_fit(np.array(lengths, np.int64), 24)
    bounds = np.cumsum([0, *sizes.tolist()])
    rows = [order[first:end].tolist() for first, end in pairwise(bounds)]
    assert rows == fit_rows(lengths, 24)


def test_packing_a_corpus_in_groups_loses_nothing_and_wastes_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.random.default_rng(0).geometric(1 / 40, 2000) + 1
    shards = [shard_of(tmp_path / name, [numbered_documents(lengths.tolist())], "<u4") for name in ("a", "b")]
    together = open_row_table(shards[0], "packed", 64)
    monkeypatch.setattr(row_tables, "DOCUMENTS_AT_A_TIME", 300)
    in_groups = open_row_table(shards[1], "packed", 64)
    assert in_groups.pairs == together.pairs == int((lengths - 1).sum())
    assert together.padded_share < in_groups.padded_share < 0.05
    assert together.dropped_share == 0


def test_a_million_pieces_are_packed_in_seconds() -> None:
    lengths = np.random.default_rng(0).integers(1, 1024, 200_000)
    started = time.process_time()
    _, sizes = best_fit(lengths, 1024)
    assert time.process_time() - started < 4
    assert lengths.sum() / (len(sizes) * 1024) > 0.99


def test_the_table_is_made_once_beside_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(tmp_path, [numbered_documents([30, 40])])
    first = open_row_table(shard, "windows", 8)
    assert (first.source_rows, first.pairs) == ((3 + 4,), 7 * 7)
    assert first.dropped_share == pytest.approx(1 - 49 / 68)
    monkeypatch.setattr(row_tables, "window_rows", None)
    assert np.array_equal(open_row_table(shard, "windows", 8).pieces, first.pieces)


@given(length=st.integers(2, 200), window=st.integers(1, 50), seed=st.integers(0, 3), epoch=st.integers(0, 2))
def test_an_epoch_of_a_stream_drops_and_repeats_no_token(length: int, window: int, seed: int, epoch: int) -> None:
    """Every token but the first is a target once; what is left out is the rest shorter than a window, at the end."""
    if length <= window:
        return
    sampled = stream_sampler(np.arange(length, dtype=np.uint16), window, seed)
    rows = rows_of(sampled)
    targets = sampled.rows(epoch * rows, rows).targets
    assert sorted(targets.flatten().tolist()) == list(range(1, rows * window + 1))
    assert length - 1 - rows * window < window


def test_a_row_of_a_stream_is_a_run_of_the_shard() -> None:
    batch = stream_sampler(np.arange(100, dtype=np.uint16), 7, 0).rows(0, 14)
    assert batch.ids.shape == (14, 7) and batch.ids.dtype == torch.int64
    assert bool((batch.ids.diff() == 1).all()) and torch.equal(batch.targets, batch.ids + 1)


def test_a_stream_of_weight_1_is_read_in_the_order_it_always_was() -> None:
    """Runs made with earlier versions stay what they were: NumPy's permutation of (seed, epoch)."""
    from trine.runtime.seeds import generator_for

    batch = stream_sampler(np.arange(101, dtype=np.uint16), 10, 5).rows(10, 10)
    assert (batch.ids[:, 0] // 10).tolist() == generator_for(5, "epoch", 1).permutation(10).tolist()


def test_going_back_an_epoch_gives_the_same_rows_again() -> None:
    sampled = stream_sampler(np.arange(200, dtype=np.uint16), 11, 5)
    first = sampled.rows(0, 18)
    sampled.rows(36, 18)
    assert torch.equal(sampled.rows(0, 18).ids, first.ids)


def test_a_stream_of_weighted_sources_never_crosses_from_one_to_the_other(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, [numbered_documents([23, 10]), numbered_documents([41], first=33)])
    sampled = open_sampler(shard, "stream", 8, 0, (2.0, 1.0), PADDING)
    assert sampled.source.counts == (4, 5)
    ids = sampled.rows(0, 13).ids
    assert Counter(ids[:, 0].tolist()) == Counter({0: 2, 8: 2, 16: 2, 24: 2, 33: 1, 41: 1, 49: 1, 57: 1, 65: 1})


def test_a_corpus_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(TrineError, match=r"corpus has 10 tokens, fewer than one row of 10 \+ 1.*smaller row_tokens"):
        stream_sampler(np.arange(10, dtype=np.uint16), 10, 0)
    assert rows_of(stream_sampler(np.arange(11, dtype=np.uint16), 10, 0)) == 1


def test_a_batch_splits_into_micro_batches(tmp_path: Path) -> None:
    batch = sampler(tmp_path, [9, 4, 12, 3, 3, 8], "packed", 5).rows(0, 6)
    parts = batch.split(4)
    assert [len(part.ids) for part in parts] == [4, 2] and sum(part.count for part in parts) == batch.count
    assert batch.starts is not None
    assert torch.equal(torch.cat([part.starts for part in parts if part.starts is not None]), batch.starts)


@pytest.mark.parametrize(("tokens", "dropped"), [(101, 0.0), (102, 1 / 101), (110, 9 / 109), (111, 0.0)])
def test_a_stream_drops_the_pairs_that_do_not_fill_a_last_row(tokens: int, dropped: float) -> None:
    """n tokens make n - 1 pairs of an input and its target."""
    source = stream_sampler(np.arange(tokens, dtype=np.uint16), 10, 0).source
    assert source.dropped_share == pytest.approx(dropped)
