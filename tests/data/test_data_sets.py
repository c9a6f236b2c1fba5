"""Hugging Face data sets: from a local folder, and by name over HTTP, streaming or copied."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.data_set_stand_in import COMMIT, DataSetStandIn, serving
from trine.config.corpus import CorpusConfig, SourceConfig
from trine.data.account import Tally
from trine.data.corpus import open_corpus
from trine.data.data_sets import data_set_units
from trine.records import Document
from trine.runtime.errors import TrineError

ROWS = [{"content": f"text {number}\n", "license": "mit", "size": number} for number in range(8)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two files of parquet and a second split of one of JSONL."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for part in range(2):
        rows = pa.Table.from_pylist(ROWS[part * 4 : part * 4 + 4])
        parquet.write_table(rows, folder / "data" / f"train-0000{part}-of-00002.parquet")
    parquet.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def source(dataset: object, **changes: object) -> SourceConfig:
    fields = {"dataset": str(dataset), "text_field": "content", "license_field": "license"}
    return SourceConfig(**fields | changes)  # type: ignore[arg-type]


def read(source: SourceConfig, tally: Tally | None = None) -> list[Document]:
    (unit,) = data_set_units(source)
    return list(unit.read(tally or Tally()))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_folder_gives_a_document_per_row_in_order(folder: Path, streaming: bool) -> None:
    documents = read(source(folder, streaming=streaming))
    assert [document.text for document in documents] == [row["content"] for row in ROWS]
    assert documents[0] == Document("text 0\n", "set:1", "data set", "set:1", "mit")
    assert len(read(source(folder, streaming=streaming, split="test"))) == 1


def test_what_save_to_disk_wrote_is_a_data_set_too(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "saved")
    assert [document.text for document in read(source(tmp_path / "saved"))] == [row["content"] for row in ROWS]


def test_rows_without_text_are_counted_by_number(folder: Path) -> None:
    parquet.write_table(
        pa.table({"content": ["x", None, "y"], "license": ["mit"] * 3, "size": [1, 2, 3]}),
        folder / "data" / "train-00000-of-00002.parquet",
    )
    tally = Tally()
    assert len(read(source(folder), tally)) == 6
    assert (tally.seen, tally.listed) == (7, ["set:2: the field 'content' is not text but NoneType"])


def test_a_field_that_the_data_set_lacks_is_named_with_those_it_has(folder: Path) -> None:
    with pytest.raises(TrineError, match=r"no column 'text'; there are content, license, size: set text_field"):
        read(source(folder, text_field="text"))


def test_a_split_that_is_not_there_is_an_error_that_names_the_data_set(folder: Path) -> None:
    with pytest.raises(TrineError, match=rf"data set {folder} cannot be read: ValueError: .*nosuch"):
        read(source(folder, split="nosuch"))


def test_the_fingerprint_knows_every_file_of_the_folder_but_not_its_place(folder: Path, tmp_path: Path) -> None:
    def fingerprint(place: Path, **changes: object) -> str:
        return open_corpus(CorpusConfig(sources=(source(place, **changes),))).fingerprint

    prints = [fingerprint(folder), fingerprint(folder, split="test")]
    moved = folder.rename(tmp_path / "moved") / ".." / "set"
    (tmp_path / "moved").rename(tmp_path / "set")
    assert fingerprint(moved.resolve(), streaming=True) == prints[0]
    (folder / "README.md").write_text("changed")
    assert len({*prints, fingerprint(folder)}) == 3


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TrineError, match=r"needs datasets: pip install 'trine\[hub\]'"):
        open_corpus(CorpusConfig(sources=(source(folder),)))


def test_reading_other_sources_does_not_import_datasets(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    script = (
        "import sys; from trine.config.corpus import CorpusConfig; from trine.data.corpus import open_corpus; "
        f"list(open_corpus(CorpusConfig(folders=({str(tmp_path)!r},), held_out_share=0)).documents('train')); "
        "assert not {'datasets', 'datasketch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_by_name_over_http_streaming_and_copied(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, since the hub's address is read once; every request goes to the loopback."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json\n"
        "from trine.config.corpus import CorpusConfig\n"
        "from trine.data.corpus import open_corpus\n"
        "from trine.runtime.errors import TrineError\n"
        "def corpus(name, **more):\n"
        "    source = {'dataset': name, 'text_field': 'content', **more}\n"
        "    return open_corpus(CorpusConfig(sources=(source,), held_out_share=0))\n"
        "found = [corpus('me/code', streaming=streaming) for streaming in (True, False)]\n"
        "texts = [[document.text for document in one.documents('train')] for one in found]\n"
        "try:\n    corpus('me/other')\nexcept TrineError as error:\n    message = str(error)\n"
        "from trine.data.data_sets import data_set_commit, data_set_records\n"
        "records = list(data_set_records('me/code', None, 'train'))\n"
        "commits = [data_set_commit(name) for name in ('me/code', 'me/code@' + 40 * 'a')]\n"
        "print(json.dumps([texts, [one.fingerprint for one in found], message, records, commits]))\n"
    )
    with serving(DataSetStandIn("me/code", folder)) as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, script], env=os.environ | settings, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    texts, prints, message, records, commits = json.loads(done.stdout)
    assert records == [[f"me/code:{number}", row] for number, row in enumerate(ROWS, 1)]
    assert commits == [COMMIT, 40 * "a"]
    assert texts == [[row["content"] for row in ROWS]] * 2
    assert prints[0] == prints[1]
    assert message == (
        "data set me/other is no folder here, and the hub has no such data set (if it is private: `hf auth login`)"
    )
    assert f"GET /datasets/me/code/resolve/{COMMIT}/data/train-00001-of-00002.parquet" in hub.requests
