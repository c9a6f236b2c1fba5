"""Encoding gives the same arrays in any number of processes, in order, and says what went wrong in one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tests.data.encoders import END, byte_encoding
from trine.config.corpus import FilterConfig
from trine.data import encoding
from trine.data.duplicates import content_digest
from trine.data.encoding import EncodedBatch, encoded
from trine.records import Document
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Texts:
    """A batch of a source."""

    source: str
    documents: Sequence[Document]

    @property
    def size(self) -> int:
        return sum(len(document.text) for document in self.documents)


def batch(*texts: str) -> Texts:
    return Texts("some", [Document(text, str(number), "folder", str(number)) for number, text in enumerate(texts)])


@pytest.fixture
def no_corpus_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SMALL_CORPUS", 1)


def result_of(texts: Texts, filters: FilterConfig | None = None) -> EncodedBatch:
    [(_, result)] = encoded([texts], byte_encoding(filters), workers=1)
    return result


def test_documents_become_ids_closed_by_end_of_text_with_their_sizes_and_digests() -> None:
    result = result_of(batch("ab", "", "ö", "x \ud800"), FilterConfig(exact_duplicates=True))
    assert result.ids.tolist() == [97, 98, END, END, *"ö".encode(), END, 120, 32, 63, END]
    assert result.documents["tokens"].tolist() == [3, 1, 3, 4]
    assert result.documents["bytes"].tolist() == [2, 0, 2, 3]
    assert result.documents["digest"][0].tobytes() == content_digest("ab")
    assert result.signatures.shape == (4, 0) and result.kept.all()


def test_filters_leave_documents_out_and_count_them() -> None:
    result = result_of(batch("short\n", "l" * 99 + "\n", "short too\n"), FilterConfig(maximum_line_length=50))
    assert result.kept.tolist() == [True, False, True]
    assert len(result.documents) == 2 and bytes(result.ids[:5].astype(np.uint8)) == b"short"
    counts = result.counts.as_json()["some"]
    assert counts["kept"]["documents"] == 2 and counts["maximum_line_length"] == {"documents": 1, "bytes": 100}


def test_signatures_are_kept_for_documents_of_enough_words() -> None:
    pytest.importorskip("datasketch")
    words = " ".join(f"word{number}" for number in range(20))
    result = result_of(batch("few words", words), FilterConfig(near_duplicates=True, permutations=32))
    assert result.documents["signed"].tolist() == [0, 1]
    assert result.signatures.shape == (2, 32) and not result.signatures[0].any() and result.signatures[1].any()


def test_any_number_of_workers_gives_the_same_arrays_in_the_same_order(no_corpus_is_small: None) -> None:
    batches = [batch(*(f"text {number} of {size}" * size for number in range(3))) for size in range(12)]
    alone, together = (
        list(encoded(batches, byte_encoding(FilterConfig(maximum_line_length=100)), workers)) for workers in (1, 2)
    )
    for (batch_before, before), (batch_after, after) in zip(alone, together, strict=True):
        assert batch_before is batch_after and before.counts == after.counts
        for name in ("ids", "documents", "signatures", "kept"):
            left, right = getattr(before, name), getattr(after, name)
            assert left.dtype == right.dtype and left.tobytes() == right.tobytes()


def test_small_corpora_are_encoded_in_this_process() -> None:
    [(_, small)] = encoded([batch("modules")], byte_encoding(), workers=2)
    assert small.ids.tolist()[1] == os.getpid() % 2**16


def test_workers_are_other_processes_that_never_import_torch(no_corpus_is_small: None) -> None:
    results = [result for _, result in encoded([batch("modules")] * 6, byte_encoding(), workers=2)]
    assert {result.ids.tolist()[0] for result in results} == {0}
    assert os.getpid() % 2**16 not in {result.ids.tolist()[1] for result in results}


def test_reading_is_never_far_ahead_of_what_came_back(no_corpus_is_small: None) -> None:
    read = 0

    def batches() -> Iterator[Texts]:
        nonlocal read
        for number in range(40):
            read += 1
            yield batch(f"text {number}")

    for done, _ in enumerate(encoded(batches(), byte_encoding(), workers=2)):
        assert read <= done + 2 * 2 + 1


@pytest.mark.parametrize(
    ("text", "message"), [("fail", "failed to encode documents of some.*no such token"), ("die", r"died \(exit code 9")]
)
def test_what_goes_wrong_in_a_worker_is_said(text: str, message: str, no_corpus_is_small: None) -> None:
    with pytest.raises(TrineError, match=f"(?s){message}"):
        list(encoded([batch("fine"), batch(text)], byte_encoding(), workers=2))
