"""A corpus is split by group, streams, and says why it cannot be read."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.small_corpus import write_corpus
from trine.config.corpus import CorpusConfig, FilterConfig, SourceConfig
from trine.data.account import Tally
from trine.data.corpus import Unit, open_corpus
from trine.data.filters import FilterCounts
from trine.data.sources import is_held_out
from trine.records import Document
from trine.runtime.errors import TrineError


def config(folder: Path, **changes: object) -> CorpusConfig:
    return CorpusConfig(folders=(folder,), **{"held_out_share": 0.25} | changes)  # type: ignore[arg-type]


def both_parts(config: CorpusConfig) -> tuple[list[Document], list[Document]]:
    corpus = open_corpus(config)
    return list(corpus.documents("train")), list(corpus.documents("held_out"))


def test_every_document_is_on_exactly_one_side(corpus_folder: Path) -> None:
    train, held_out = both_parts(config(corpus_folder))
    assert sorted(document.name for document in train + held_out) == sorted(p.name for p in corpus_folder.iterdir())
    assert train and held_out


def test_held_out_holds_no_group_of_the_training_part() -> None:
    parts = both_parts(CorpusConfig(standard_library=True, distributions={"filelock": 1.0, "pydantic": 0.3}))
    train, held_out = ({document.group for document in part} for part in parts)
    assert train and held_out and not train & held_out
    assert not {document.text for document in parts[0]} & {document.text for document in parts[1]}


def test_a_share_of_a_distribution_thins_its_training_files_only() -> None:
    whole, thin = (
        both_parts(CorpusConfig(distributions={"pydantic": share}, held_out_share=0)) for share in (1.0, 0.3)
    )
    names = [{document.name for document in part[0]} for part in (whole, thin)]
    assert names[1] < names[0]
    assert 0.1 < len(names[1]) / len(names[0]) < 0.5


def test_the_fingerprint_knows_every_letter_and_every_name(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", 6)
    prints = [open_corpus(config(folder)).fingerprint for _ in range(2)]
    assert prints[0] == prints[1]
    (folder / "module_3.py").write_text((folder / "module_3.py").read_text() + "#")
    prints.append(open_corpus(config(folder)).fingerprint)
    (folder / "module_3.py").rename(folder / "module_x.py")
    prints.append(open_corpus(config(folder)).fingerprint)
    assert len(set(prints)) == 3


def test_held_out_parts_are_named_as_the_report_names_them() -> None:
    corpus = open_corpus(CorpusConfig(standard_library=True, distributions={"filelock": 1.0}, held_out_share=0.3))
    assert {corpus.part_of(document) for document in corpus.documents("held_out")} <= {"standard_library", "packages"}
    assert {corpus.part_of(document) for document in corpus.documents("train")} == {"train"}


def test_no_source_at_all_is_refused_with_the_keys_to_set() -> None:
    with pytest.raises(TrineError, match=r"set corpus\.folders, corpus\.standard_library or corpus\.distributions"):
        open_corpus(CorpusConfig())


def test_a_folder_without_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(TrineError, match=rf"{tmp_path} has no text; read are"):
        both_parts(config(tmp_path))


def test_a_corpus_that_is_all_held_out_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3)
    with pytest.raises(TrineError, match=r"all of the corpus \(3 documents\).*lower corpus\.held_out_share"):
        both_parts(config(tmp_path, held_out_share=1.0))


def test_a_few_broken_files_are_listed_and_many_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, 9)
    (tmp_path / "broken.py").write_bytes(b"x = 1\ny = '\xff'\n")
    corpus, tally = open_corpus(config(tmp_path, max_broken_share=0.1)), Tally()
    assert len([document for unit in corpus.sources[0].units for document in unit.read(tally)]) == 9
    assert [place.split(": byte")[0] for place in tally.listed] == [f"{tmp_path / 'broken.py'}:2: not UTF-8"]
    assert list(corpus.documents("train"))
    with pytest.raises(TrineError, match=r"1 of 10 records cannot be read .*broken\.py:2: not UTF-8"):
        both_parts(config(tmp_path, max_broken_share=0.09))


def mixed(folder: Path, **filters: object) -> CorpusConfig:
    sources = (
        {"folder": folder / "code", "files": ("*.py",), "weight": 2},
        {"folder": folder / "rows.jsonl", "name": "rows", "share": 0.5},
    )
    return CorpusConfig(sources=sources, filters=filters, held_out_share=0.2)  # type: ignore[arg-type]


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "code", 20)
    rows = [json.dumps({"text": f"text of the record number {number}"}) for number in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return tmp_path


def test_several_sources_keep_their_order_names_and_weights(two_sources: Path) -> None:
    corpus = open_corpus(mixed(two_sources))
    assert [(source.name, source.weight) for source in corpus.sources] == [(str(two_sources / "code"), 2), ("rows", 1)]
    documents = list(corpus.documents("train"))
    assert documents == list(corpus.documents("train"))
    kinds = [document.name.startswith("rows") for document in documents]
    assert kinds == sorted(kinds) and True in kinds and False in kinds
    assert 60 < sum(kinds) < 100  # half of 160


def test_a_training_document_that_repeats_a_held_out_one_is_the_one_dropped(tmp_path: Path) -> None:
    """Of eight equal files one held-out file stays, wherever in the order it stands."""
    for name in "abcdefgh":
        (tmp_path / f"{name}.txt").write_text("the same words in every one of these files, again and again and again")
    (tmp_path / "other.txt").write_text("something else")
    corpus = open_corpus(config(tmp_path, filters=FilterConfig(exact_duplicates=True), held_out_share=0.5))
    counts = FilterCounts()
    assert [document.name for document in corpus.documents("train", counts)] == ["other.txt"]
    assert len(list(corpus.documents("held_out"))) == 1
    equal = [name for name in "abcdefgh" if not is_held_out(f"{name}.txt", 0.5)]
    assert counts.amount("exact_duplicates").documents == len(equal) and 0 < len(equal) < 8


@pytest.mark.parametrize("near", [False, True])
def test_filters_count_by_source_and_reason(two_sources: Path, near: bool) -> None:
    folder = two_sources / "code"
    (folder / "generated.py").write_text("# autogenerated\n" + "x = 1\n" * 20)
    for name in ("module_0.py", "module_7.py"):
        (folder / f"copy_of_{name}").write_text((folder / name).read_text() + "#")
    filters = {"near_duplicates": near, "autogenerated": True, "exact_duplicates": True}
    corpus, counts, held_out = open_corpus(mixed(two_sources, **filters)), FilterCounts(), FilterCounts()
    kept = [*corpus.documents("train", counts), *corpus.documents("held_out", held_out)]
    counts.merge(held_out)
    code = counts.as_json()[str(folder)]
    assert code["seen"]["documents"] == 23
    assert code["autogenerated"] == {"documents": 1, "bytes": 136}
    assert code.get("near_duplicates", {"documents": 0})["documents"] == 2 * near
    assert counts.amount("kept").documents == len(kept)


def test_filters_that_leave_nothing_say_which_did(tmp_path: Path) -> None:
    write_corpus(tmp_path, 6)
    corpus = open_corpus(config(tmp_path, filters=FilterConfig(licenses=("MIT",))))
    with pytest.raises(TrineError, match=r"reject every training document .*'licenses': \d.*change corpus\.filters"):
        list(corpus.documents("train"))


@pytest.mark.parametrize(
    "change",
    [
        {"filters": {"autogenerated": True}}, {"held_out_share": 0.3},
        {"sources": [{"folder": "?", "text_field": "content"}]}, {"sources": [{"folder": "?", "share": 0.5}]},
    ],
)  # fmt: skip
def test_the_fingerprint_knows_the_settings_that_change_documents(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = str(write_corpus(tmp_path, 3))
    before: dict[str, Any] = {"sources": [{"folder": folder}]}
    if "sources" in change:
        change = {"sources": [{**change["sources"][0], "folder": folder}]}
    prints = [open_corpus(CorpusConfig.model_validate(values)).fingerprint for values in (before, before | change)]
    assert prints[0] != prints[1]


def test_the_fingerprint_knows_nothing_of_weights_names_and_places(tmp_path: Path) -> None:
    here, there = write_corpus(tmp_path / "here", 3), write_corpus(tmp_path / "there", 3)
    sources = ({"folder": here}, {"folder": there, "weight": 3.0, "name": "other"})
    one, two = (open_corpus(CorpusConfig.model_validate({"sources": [source]})) for source in sources)
    assert one.fingerprint == two.fingerprint


def test_a_name_in_another_encoding_is_a_name_too(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("text")
    (tmp_path / "rows.jsonl").write_text('{"text": "row", "name": "half \\ud800 of a pair"}\n')
    source = SourceConfig(folder=tmp_path, name_field="name")
    corpus = open_corpus(CorpusConfig(sources=(source,), held_out_share=0))
    assert [d.name for d in corpus.documents("train")] == ["caf\udce9.txt", "half ? of a pair"]
    assert len(corpus.fingerprint) == 64


def test_units_travel_to_other_processes(two_sources: Path) -> None:
    corpus = open_corpus(mixed(two_sources))
    units = [unit for source in corpus.sources for unit in source.units]
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        found = list(pool.map(documents_of, units))
    assert found == [documents_of(unit) for unit in units]
    assert sum(map(len, found)) > 60


def documents_of(unit: Unit) -> list[Document]:
    return list(unit.read(Tally()))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Reading 20 MB and 200 MB with all filters that compare no documents peaks alike."""
    peaks = []
    for size in (20, 200):
        path = tmp_path / f"{size}.jsonl"
        with open(path, "w") as file:
            for number in range(size * 50):
                file.write(json.dumps({"text": f"x{number} = 1\n" * 1500}) + "\n")
        script = (
            "import resource; from trine.config.corpus import *; from trine.data.corpus import open_corpus; "
            f"filters = FilterConfig(preset='codeparrot', exact_duplicates=False); "
            f"corpus = open_corpus(CorpusConfig(folders=({str(path)!r},), filters=filters)); corpus.fingerprint; "
            "print(sum(1 for _ in corpus.documents('train')), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[1]))
    assert peaks[1] < 1.1 * peaks[0]
