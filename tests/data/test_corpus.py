"""A corpus is split by group, streams, and says why it cannot be read."""

from pathlib import Path

import pytest

from tests.small_corpus import write_corpus
from trine.config.corpus import CorpusConfig
from trine.data.corpus import open_corpus
from trine.data.readers import Damage
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
    with pytest.raises(TrineError, match=rf"{tmp_path} holds no text; Trine reads"):
        both_parts(config(tmp_path))


def test_a_corpus_that_is_all_held_out_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3)
    with pytest.raises(TrineError, match=r"all of the corpus \(3 documents\).*lower corpus\.held_out_share"):
        both_parts(config(tmp_path, held_out_share=1.0))


def test_a_few_broken_files_are_listed_and_many_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, 9)
    (tmp_path / "broken.py").write_bytes(b"x = 1\ny = '\xff'\n")
    corpus, damage = open_corpus(config(tmp_path, largest_broken_share=0.1)), Damage()
    assert len([document for unit in corpus.sources[0].units for document in unit.read(damage)]) == 9
    assert damage.listed == [f"{tmp_path / 'broken.py'}:2: not UTF-8"]
    assert list(corpus.documents("train"))
    with pytest.raises(TrineError, match=r"1 of 10 records cannot be read .*broken\.py:2: not UTF-8"):
        both_parts(config(tmp_path, largest_broken_share=0.09))
