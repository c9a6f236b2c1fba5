"""Shards that were cut short, overwritten, half encoded or lie on a disk that cannot be written."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.data.encoders import byte_target
from tests.data.make_some_shards import make
from tests.data.test_shard_making import contents, corpus_of
from tests.mutations import mutations
from tests.small_corpus import write_corpus
from trine.data import row_tables
from trine.data.row_tables import open_row_table
from trine.data.rows import open_sampler
from trine.data.shard_making import make_shards
from trine.data.shards import Shards
from trine.runtime.errors import TrineError
from trine.runtime.signals import Interrupted, stop_request

VOCABULARY = 257


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with a table of rows."""
    folder = tmp_path_factory.mktemp("whole")
    shards = make(folder / "shards", write_corpus(folder / "corpus", 8), workers=1, delay=0)
    open_row_table(shards.train, "packed", 64)
    return folder / "shards"


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".bin", ".json") and path.name != "making.json"
    )


def rows_read(folder: Path) -> bytes:
    """All training rows in the order of an epoch."""
    shards = Shards(folder)
    shards.check_contents(VOCABULARY)
    sampler = open_sampler(shards.train, "packed", 64, 0, shards.weights, padding=0)
    batch = sampler.rows(0, sum(sampler.source.counts))
    return batch.ids.numpy().tobytes() + batch.targets.numpy().tobytes()


def test_any_damage_of_any_file_is_named_or_changes_no_row(whole: Path, tmp_path: Path) -> None:
    """1.7: a table of rows is computed again, since it follows from the shard; all else is refused by name, or differs
    from what was written in a digest only."""
    expected, cases = rows_read(whole), 0
    for name in files_of(whole):
        for mutation, damaged in mutations((whole / name).read_bytes(), seed=1, count=20):
            copied = shutil.copytree(whole, tmp_path / f"{name.replace('/', '-')}-{mutation}")
            (copied / name).write_bytes(damaged)
            cases += 1
            try:
                unharmed = rows_read(copied) == expected
            except TrineError as error:
                assert Path(name).name in str(error), (name, mutation, error)
                continue
            if not unharmed:
                assert name.endswith(("ids.bin", "documents.bin")), (name, mutation)
                with pytest.raises(TrineError, match=Path(name).name):
                    Shards(copied).verify()
            shutil.rmtree(copied)
    assert cases >= 120


@pytest.mark.parametrize("name", ["train/ids.bin", "held_out/ids.bin", "train/documents.bin"])
def test_a_file_of_another_size_is_refused_at_opening(whole: Path, tmp_path: Path, name: str) -> None:
    """1.7: half of a file trained on half of the text, or reported 0.437 bits per byte for 2.167."""
    copied = shutil.copytree(whole, tmp_path / "copy")
    path = copied / name if (copied / name).exists() else next(copied.glob(f"[!.t]*/{Path(name).name}"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TrineError, match=rf"{path}.*bytes and should have {len(data):,}"):
        Shards(copied)


def test_an_overwritten_file_is_found_by_its_digest(whole: Path, tmp_path: Path) -> None:
    """1.7: of the same size, with every id in the vocabulary."""
    copied = shutil.copytree(whole, tmp_path / "copy")
    assert Shards(copied).verify() == 2 * len(Shards(copied).description["parts"])
    ids = np.fromfile(copied / "train" / "ids.bin", "<u2")
    ids[10] ^= 1
    ids.tofile(copied / "train" / "ids.bin")
    with pytest.raises(TrineError, match=r"ids\.bin is not what was written"):
        Shards(copied).verify()


def test_rows_of_shards_that_cannot_be_written_beside_are_kept_in_memory(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.10: shards on a read-only disk can be trained on."""
    copied = shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(copied / "train" / "rows-packed-64")

    def read_only(*arguments: object) -> None:
        raise TrineError("cannot write: Read-only file system")

    monkeypatch.setattr(row_tables, "write_folder", read_only)
    before = contents(copied)
    assert rows_read(copied) == rows_read(whole)
    assert contents(copied) == before


def test_a_disk_that_takes_no_rows_is_no_obstacle(whole: Path, tmp_path: Path) -> None:
    """4.10: the same with a disk that is full."""
    copied = shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(copied / "train" / "rows-packed-64")
    with at_most(16):
        assert rows_read(copied) == rows_read(whole)
    assert not list((copied / "train").glob("rows-*"))


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes, as on a disk that fills up (the system then fails a write in the same way)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_at_any_moment_is_named_and_encoding_goes_on(tmp_path: Path) -> None:
    """3.3: whatever the size at which the disk is full; the end is that of an encoding without the accident."""
    corpus = write_corpus(tmp_path / "corpus", 8)
    expected = contents(make(tmp_path / "expected", corpus, workers=1, delay=0).folder)
    largest = max(map(len, expected.values()))
    for number, size in enumerate([0, 1, 100, 1000, 3000, *(largest * share // 8 for share in range(1, 8))]):
        folder = tmp_path / f"shards-{number}"
        with at_most(size), pytest.raises(TrineError, match=r"cannot write .*(shards|building)"):
            make(folder, corpus, workers=1, delay=0)
        assert contents(make(folder, corpus, workers=1, delay=0).folder) == expected


def stop_encoding(folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoding that was stopped after its first chunk; the folder it goes on in."""
    monkeypatch.setattr("trine.data.corpus_reader.BATCH_DOCUMENTS", 2)
    monkeypatch.setattr(stop_request, "received", 15)
    with pytest.raises(Interrupted):
        make(folder, corpus, workers=1, delay=0)
    monkeypatch.setattr(stop_request, "received", None)
    return folder.with_name(f".{folder.name}.building")


def test_any_damage_of_an_unfinished_encoding_ends_in_the_same_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.7: what is damaged is encoded again; nothing is taken for text that was not."""
    corpus = write_corpus(tmp_path / "corpus", 6)
    expected = contents(make(tmp_path / "expected", corpus, workers=1, delay=0).folder)
    begun = stop_encoding(tmp_path / "begun", corpus, monkeypatch)
    for mutation, damaged in mutations((begun / "progress.json").read_bytes(), seed=2, count=40):
        folder = tmp_path / f"record-{mutation}"
        shutil.copytree(begun, folder.with_name(f".{folder.name}.building"))
        (folder.with_name(f".{folder.name}.building") / "progress.json").write_bytes(damaged)
        assert contents(make(folder, corpus, workers=1, delay=0).folder) == expected, mutation
    for path in sorted(begun.glob("*/*.bin")):
        folder = tmp_path / f"cut-{path.parent.name}-{path.stem}"
        aside = shutil.copytree(begun, folder.with_name(f".{folder.name}.building"))
        cut = aside / path.relative_to(begun)
        cut.write_bytes(cut.read_bytes()[:-1])
        assert contents(make(folder, corpus, workers=1, delay=0).folder) == expected, path


def test_windows_that_no_document_fills_say_what_to_do(tmp_path: Path) -> None:
    """5.7: not "fewer than one row" of a corpus of many thousand tokens."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number}.txt").write_text(f"short document number {number}\n")
    shards = make_shards(tmp_path / "shards", corpus_of(folder), byte_target(), workers=1)
    assert shards.train.tokens > 500
    with pytest.raises(TrineError, match=r"no document .* fills a row.*packing: packed"):
        open_sampler(shards.train, "windows", 64, 0, shards.weights, padding=0)
