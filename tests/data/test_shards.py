"""Shards hold every token once, and windows read them in a seeded order that can be entered anywhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trine.data.shards import Windows, make_shard
from trine.records import Document
from trine.runtime.errors import TrineError

END = 256


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def documents(*texts: str) -> list[Document]:
    return [Document(text, f"{number}", "folder", f"{number}") for number, text in enumerate(texts)]


def test_a_shard_is_the_documents_each_closed_by_end_of_text(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", documents("ab", "", "ö"), encode, END, 257, "print")
    assert shard.ids.tolist() == [97, 98, END, END, *"ö".encode(), END]
    assert (shard.bytes, shard.description["tokens"], shard.description["documents"]) == (4, 7, 3)


def test_many_documents_come_through_in_order(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(600)]
    shard = make_shard(tmp_path / "shard", documents(*texts), encode, END, 257, "print")
    assert bytes(shard.ids[shard.ids != END].astype(np.uint8)).decode() == "".join(texts)


def test_ids_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", documents("x"), lambda texts: [[70_000]], 65_536, 70_001, "print")
    assert shard.ids.tolist() == [70_000, 65_536]


def test_a_shard_is_made_once_per_fingerprint(tmp_path: Path) -> None:
    def refuse(texts: Sequence[str]) -> list[list[int]]:
        raise AssertionError("encoded again")

    make_shard(tmp_path / "shard", documents("ab"), encode, END, 257, "print")
    assert make_shard(tmp_path / "shard", documents("ab"), refuse, END, 257, "print").ids.tolist() == [97, 98, END]
    assert make_shard(tmp_path / "shard", documents("c"), encode, END, 257, "other").ids.tolist() == [99, END]


@given(length=st.integers(2, 200), window=st.integers(1, 50), seed=st.integers(0, 3), epoch=st.integers(0, 2))
def test_an_epoch_drops_and_repeats_no_token(length: int, window: int, seed: int, epoch: int) -> None:
    """Every token but the first is a target once; what is left out is the rest shorter than a window, at the end."""
    if length <= window:
        return
    windows = Windows(np.arange(length, dtype=np.uint16), window, seed)
    targets = windows.rows(epoch * windows.count, windows.count)[:, 1:]
    assert sorted(targets.flatten().tolist()) == list(range(1, windows.count * window + 1))
    assert length - 1 - windows.count * window < window


def test_a_window_is_a_run_of_the_shard() -> None:
    rows = Windows(np.arange(100, dtype=np.uint16), 7, 0).rows(0, 14)
    assert rows.shape == (14, 8) and rows.dtype == torch.int64
    assert bool((rows.diff() == 1).all())


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    ids = np.arange(1001, dtype=np.uint16)
    epochs = [Windows(ids, 10, seed).rows(epoch * 100, 100)[:, 0].tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert epochs[0] == Windows(ids, 10, 1).rows(0, 100)[:, 0].tolist()
    assert len({tuple(epoch) for epoch in epochs}) == 4


@given(start=st.integers(0, 60), count=st.integers(1, 30))
def test_reading_can_begin_at_any_index(start: int, count: int) -> None:
    ids = np.arange(200, dtype=np.uint16)
    whole = Windows(ids, 11, 5).rows(0, 90)
    assert torch.equal(Windows(ids, 11, 5).rows(start, count), whole[start : start + count])


def test_going_back_an_epoch_gives_the_same_windows_again() -> None:
    windows = Windows(np.arange(200, dtype=np.uint16), 11, 5)
    first = windows.rows(0, 18)
    windows.rows(36, 18)
    assert torch.equal(windows.rows(0, 18), first)


def test_a_corpus_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(TrineError, match=r"corpus has 10 tokens, fewer than one row of 10 \+ 1.*smaller row_tokens"):
        Windows(np.arange(10, dtype=np.uint16), 10, 0)
    assert Windows(np.arange(11, dtype=np.uint16), 10, 0).count == 1
