"""Shards hold every document that is kept once; making them can be killed at any moment and costs a chunk at most."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data import make_some_shards
from tests.data.encoders import END, byte_target
from tests.data.make_some_shards import make
from tests.small_corpus import module_source, write_corpus
from trine.config.corpus import CorpusConfig, FilterConfig, SourceConfig
from trine.data import corpus_reader, encoding
from trine.data.corpus import Corpus, open_corpus
from trine.data.shard_making import make_shards
from trine.data.shards import Shard, Shards
from trine.runtime.errors import TrineError
from trine.runtime.signals import Interrupted, stop_request

ROOT = Path(__file__).parents[2]


def texts(shard: Shard) -> list[str]:
    return [bytes(ids.astype(np.uint8)).decode() for ids in shard.document_ids()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a shard folder but the one that says how long the making took."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "making.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def corpus_of(*folders: Path, **changes: object) -> Corpus:
    return open_corpus(CorpusConfig(folders=folders, **changes))  # type: ignore[arg-type]


@pytest.fixture
def mixed_corpus(tmp_path: Path) -> Path:
    """Modules, records, duplicates, long lines and records that are broken."""
    folder = write_corpus(tmp_path / "corpus", 10)
    records = [json.dumps({"text": f"record {number} " * (number % 9 + 1)}) for number in range(300)]
    records[100:100] = ["not json", json.dumps({"text": "long " * 50}), records[7], json.dumps({"other": 1})]
    (folder / "records.jsonl").write_text("\n".join(records))
    (folder / "repeated.py").write_text(module_source(3))
    return folder


def test_the_parts_are_the_documents_of_the_corpus_in_order(tmp_path: Path, mixed_corpus: Path) -> None:
    """Against the plain reading of the same corpus."""
    filters = FilterConfig(maximum_line_length=80)
    corpus = corpus_of(mixed_corpus, filters=filters, held_out_share=0.2, max_broken_share=0.5)
    shards = make_shards(tmp_path / "shards", corpus, byte_target(filters), workers=1)
    assert texts(shards.train) == [document.text for document in corpus.documents("train")]
    held_out = [text for shard in shards.held_out.values() for text in texts(shard)]
    assert held_out == [document.text for document in corpus.documents("held_out")]
    last = shards.train.documents["first"] + shards.train.documents["tokens"] - 1
    assert set(shards.train.ids[last].tolist()) == {END}
    assert shards.train.bytes == sum(len(text.encode()) for text in texts(shards.train))


def test_a_training_document_that_repeats_a_held_out_one_is_the_one_left_out(
    tmp_path: Path, mixed_corpus: Path
) -> None:
    shards = make(tmp_path / "shards", mixed_corpus, workers=1, delay=0)
    corpus = open_corpus(
        CorpusConfig(
            folders=(mixed_corpus,), filters=make_some_shards.FILTERS, held_out_share=0.2, max_broken_share=0.5
        )
    )
    assert texts(shards.train) == [document.text for document in corpus.documents("train")]
    everything = texts(shards.train) + [text for shard in shards.held_out.values() for text in texts(shard)]
    assert len(everything) == len(set(everything)) and module_source(3) in everything
    assert (
        shards.train.documents["first"].tolist()
        == (np.cumsum(shards.train.documents["tokens"]) - shards.train.documents["tokens"]).tolist()
    )


def test_what_was_left_out_and_what_was_broken_is_reported(tmp_path: Path, mixed_corpus: Path) -> None:
    shards = make(tmp_path / "shards", mixed_corpus, workers=1, delay=0)
    name = str(mixed_corpus)
    outcomes = shards.description["outcomes"][name]
    assert outcomes["exact_duplicates"]["documents"] == 2
    assert outcomes["maximum_line_length"]["documents"] >= 1
    assert outcomes["kept"]["documents"] == shards.train.document_count + sum(
        shard.document_count for shard in shards.held_out.values()
    )
    assert shards.description["records"][name] == {"seen": 11 + 304, "broken": 2}
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in shards.description["broken"]] == ["101", "104"]
    assert shards.contents["bytes_per_token"] == pytest.approx(1, abs=0.1)
    assert shards.making["megabytes_per_second"] > 0


def test_near_duplicates_are_those_that_plain_reading_finds(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    folder = write_corpus(tmp_path / "corpus", 8)
    (folder / "nearly.py").write_text(module_source(2).replace("NUMBER = 2", "NUMBER = 77"))
    filters = FilterConfig(near_duplicates=True, permutations=64)
    corpus = corpus_of(folder, filters=filters, held_out_share=0.3)
    shards = make_shards(tmp_path / "shards", corpus, byte_target(filters), workers=1)
    assert texts(shards.train) == [document.text for document in corpus.documents("train")]
    assert shards.description["outcomes"][str(folder)]["near_duplicates"]["documents"] >= 1


def test_sources_lie_one_after_the_other_and_keep_their_weights(tmp_path: Path) -> None:
    first, second = write_corpus(tmp_path / "a", 3), write_corpus(tmp_path / "b", 5)
    sources = (SourceConfig(folder=first, weight=2), SourceConfig(folder=second, weight=0.5))
    corpus = open_corpus(CorpusConfig(sources=sources, held_out_share=0))
    shards = make_shards(tmp_path / "shards", corpus, byte_target(), workers=1)
    assert (shards.train.source_documents, shards.weights) == ((3, 5), (2, 0.5))
    assert [documents["source"].tolist() for documents in shards.train.documents_by_source()] == [[0] * 3, [1] * 5]
    (_, tokens), (start, _) = shards.train.source_runs()
    assert start == tokens == sum(len(module_source(number)) + 1 for number in range(3))


def test_ids_beyond_16_bits_take_32(tmp_path: Path) -> None:
    corpus = corpus_of(write_corpus(tmp_path / "corpus", 3))
    shards = make_shards(tmp_path / "shards", corpus, byte_target(vocab_size=70_000), workers=1)
    assert shards.train.ids.dtype == np.uint32 and module_source(0) in texts(shards.train)


def test_the_same_bytes_from_any_number_of_workers(
    tmp_path: Path, mixed_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_reader, "BATCH_CHARACTERS", 1000)
    alone = make(tmp_path / "alone", mixed_corpus, workers=1, delay=0)
    monkeypatch.setattr(encoding, "SMALL_CORPUS", 1000)
    assert contents(make(tmp_path / "more", mixed_corpus, workers=2, delay=0).folder) == contents(alone.folder)


def test_shards_are_made_once_per_corpus_and_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_corpus(tmp_path / "corpus", 4)
    first = make_shards(tmp_path / "shards", corpus_of(folder), byte_target(), workers=1)
    made = (first.folder / "train" / "ids.bin").stat().st_mtime_ns

    def refuse(*arguments: object) -> Iterator[object]:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr("trine.data.shard_making.read_from", refuse)
        again = make_shards(tmp_path / "shards", corpus_of(folder), byte_target(), workers=1)
        assert (again.folder / "train" / "ids.bin").stat().st_mtime_ns == made
        with pytest.raises(AssertionError, match="read again"):
            make_shards(tmp_path / "shards", corpus_of(folder), byte_target(vocab_size=300), workers=1)
    (folder / "module_9.py").write_text(module_source(9))
    longer = make_shards(tmp_path / "shards", corpus_of(folder, held_out_share=0), byte_target(), workers=1)
    assert module_source(9) in texts(longer.train)


def test_a_new_weight_needs_no_new_shards(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", 4)
    corpora = [
        open_corpus(CorpusConfig(sources=(SourceConfig(folder=folder, weight=weight),), held_out_share=0))
        for weight in (1, 3)
    ]
    prints = [make_shards(tmp_path / "shards", corpus, byte_target(), 1) for corpus in corpora]
    assert prints[0].fingerprint == prints[1].fingerprint and prints[1].weights == (3,)


def test_a_signal_is_obeyed_with_the_exit_code_of_one_that_saved(tmp_path: Path, mixed_corpus: Path) -> None:
    arguments = [tmp_path / "shards", mixed_corpus, "1", "0.05"]
    process = subprocess.Popen([sys.executable, "-m", "tests.data.make_some_shards", *arguments], cwd=ROOT)
    while not (tmp_path / ".shards.building" / "progress.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM


def test_a_stop_request_leaves_what_is_done_and_the_next_start_goes_on(
    tmp_path: Path, mixed_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_reader, "BATCH_DOCUMENTS", 20)
    whole = make(tmp_path / "whole", mixed_corpus, workers=1, delay=0)
    monkeypatch.setattr(stop_request, "received", signal.SIGTERM)
    places = []
    for _ in range(3):
        with pytest.raises(Interrupted):
            make(tmp_path / "shards", mixed_corpus, workers=1, delay=0)
        places.append(json.loads((tmp_path / ".shards.building" / "progress.json").read_text())["place"])
    assert places[0] != places[1] != places[2] and not (tmp_path / "shards").exists()
    monkeypatch.setattr(stop_request, "received", None)
    assert contents(make(tmp_path / "shards", mixed_corpus, workers=1, delay=0).folder) == contents(whole.folder)
    assert not (tmp_path / ".shards.building").exists()


def test_killed_at_any_moment_it_goes_on_and_makes_the_same_bytes(tmp_path: Path, mixed_corpus: Path) -> None:
    whole = make(tmp_path / "whole", mixed_corpus, workers=1, delay=0)
    moments = random.Random(0)
    progress = tmp_path / ".shards.building" / "progress.json"
    records = [b""]
    for attempt in range(3):
        arguments = [tmp_path / "shards", mixed_corpus, str(1 + (attempt == 1)), "0.01"]
        process = subprocess.Popen([sys.executable, "-m", "tests.data.make_some_shards", *arguments], cwd=ROOT)
        while process.poll() is None and (progress.read_bytes() if progress.exists() else b"") == records[-1]:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        records.append(progress.read_bytes())
    assert len(set(records)) == len(records)  # every start came further
    assert contents(make(tmp_path / "shards", mixed_corpus, workers=1, delay=0).folder) == contents(whole.folder)


def test_half_made_shards_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "shards" / "train").mkdir(parents=True)
    with pytest.raises(TrineError, match=r"holds no finished shards \(shards\.json is missing\)"):
        Shards(tmp_path / "shards")


def test_a_corpus_that_is_all_held_out_is_refused(tmp_path: Path) -> None:
    corpus = corpus_of(write_corpus(tmp_path / "corpus", 3), held_out_share=1.0)
    with pytest.raises(TrineError, match=r"all of the corpus \(3 documents\).*lower corpus\.held_out_share"):
        make_shards(tmp_path / "shards", corpus, byte_target(), workers=1)


def test_a_source_without_text_or_with_too_much_damage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "blank.txt").write_text(" \n")
    with pytest.raises(TrineError, match="blank has no text"):
        make_shards(tmp_path / "shards", corpus_of(tmp_path / "blank"), byte_target(), workers=1)
    folder = write_corpus(tmp_path / "corpus", 3)
    (folder / "broken.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(TrineError, match=r"broken\.py:1: not UTF-8.*max_broken_share"):
        make_shards(tmp_path / "shards", corpus_of(folder), byte_target(), workers=1)
