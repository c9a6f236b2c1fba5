"""Where text comes from: the same files always give the same corpus, and what cannot be read is named."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from trine.config.corpus import SourceConfig
from trine.data import sources
from trine.data.account import Tally
from trine.data.sources import (
    ENCODING_TABLE,
    Unit,
    distribution_units,
    folder_units,
    is_held_out,
    standard_library_units,
)
from trine.records import Document
from trine.runtime.errors import TrineError


def documents(units: Iterable[Unit], tally: Tally | None = None) -> list[Document]:
    tally = tally or Tally()
    return [document for unit in units for document in unit.read(tally)]


def read(folder: Path, tally: Tally | None = None) -> list[Document]:
    return documents(folder_units(SourceConfig(folder=folder)), tally)


@pytest.fixture(scope="module")
def standard_library() -> list[Document]:
    return documents(standard_library_units())


def test_a_folder_gives_its_text_files_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "c.py", "picture.png", "sub/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    found = read(tmp_path)
    assert [document.name for document in found] == ["a.txt", "b.md", "c.py", "sub/d.py"]
    assert found[3] == Document("text of sub/d.py", "sub/d.py", "folder", "sub/d.py")


FILES = ("a.py", "b.rst", "src/a.py", "src/deep/b.py", "src/deep/c.md", "src/vendor/d.py", "tests/t.py", "x.py.gz")


@pytest.mark.parametrize(
    "files, excluded, found",
    [
        ((), (), ["a.py", "src/a.py", "src/deep/b.py", "src/deep/c.md", "src/vendor/d.py", "tests/t.py", "x.py.gz"]),
        (("*.py",), (), ["a.py", "src/a.py", "src/deep/b.py", "src/vendor/d.py", "tests/t.py"]),
        (("src/*.py",), (), ["src/a.py"]),
        (("src/**/*.py",), ("**/vendor/**",), ["src/a.py", "src/deep/b.py"]),
        ((), ("tests/**", "a.*", "src/**"), ["x.py.gz"]),
        (("b.???", "*.gz"), (), ["b.rst", "x.py.gz"]),
    ],
)
def test_patterns_choose_files(
    tmp_path: Path, files: tuple[str, ...], excluded: tuple[str, ...], found: list[str]
) -> None:
    """A pattern without a slash is one for the file's own name; files asked for may have any suffix."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    units = folder_units(SourceConfig(folder=tmp_path, files=files, excluded=excluded))
    assert [unit.name for unit in units] == found


def test_a_single_file_is_a_corpus_too(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("text")
    assert [document.name for document in read(tmp_path / "only.txt")] == ["only.txt"]


def test_jsonl_gives_a_document_per_record_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "other": 1}\n')
    tally = Tally()
    assert [(d.text, d.name) for d in read(tmp_path, tally)] == [("one", "rows.jsonl:1"), ("two", "rows.jsonl:3")]
    assert (tally.seen, tally.broken, tally.listed) == (2, 0, [])


@pytest.mark.parametrize("line", ['{"txt": "x"}', '{"text": 5}', "[1]", "{", '"text"'])
def test_a_record_without_text_is_named_by_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    tally = Tally()
    assert [document.text for document in read(path, tally)] == ["fine"]
    assert tally.broken == 1 and tally.listed[0].startswith(f"{path}:2: ")


def test_broken_utf8_is_named_by_the_line_of_its_first_bad_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("first\nsecönd\nthird ".encode() + b"\xff\n")
    tally = Tally()
    assert read(tmp_path, tally) == []
    assert [place.split(": byte")[0] for place in tally.listed] == [f"{tmp_path / 'a.txt'}:3: not UTF-8"]


def test_damage_is_refused_above_the_share_and_not_at_it() -> None:
    tally = Tally(seen=10, broken=1, listed=["a.txt:3: not UTF-8"])
    tally.check("here", 0.1)
    with pytest.raises(TrineError, match=r"here: 1 of 10 records cannot be read \(a\.txt:3: not UTF-8\).*more than 9%"):
        tally.check("here", 0.09)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"corpus .*nowhere does not exist"):
        read(tmp_path / "nowhere")


def test_the_standard_library_is_there_without_tests_and_tables(standard_library: list[Document]) -> None:
    names = {document.name.removeprefix("python:") for document in standard_library}
    assert {"argparse.py", "json/decoder.py", "collections/__init__.py", "encodings/utf_8.py"} <= names
    left_out = {"test", "tests", "idlelib", "lib2to3", "site-packages", "pydoc_data", "turtledemo", "_bundled"}
    assert [name for name in names if left_out & set(Path(name).parts)] == []
    assert [name for name in names if ENCODING_TABLE.match(name) or name == "html/entities.py"] == []


def test_generated_files_are_left_out(standard_library: list[Document]) -> None:
    assert "python:keyword.py" not in {document.name for document in standard_library}  # says "generated by"
    assert [d.name for d in standard_library if "do not edit" in d.text[:2000].lower()] == []


def test_modules_of_one_package_share_a_group(standard_library: list[Document]) -> None:
    groups = {document.group for document in standard_library if document.name.startswith("python:json/")}
    assert groups == {"python/json"}
    assert "python/argparse" in {document.group for document in standard_library}


def test_trine_itself_is_never_in_the_corpus(standard_library: list[Document]) -> None:
    own = {path.read_text("utf-8") for path in Path(sources.__file__).parents[1].rglob("*.py")} - {""}
    assert not own & {document.text for document in standard_library}
    assert [document.name for document in standard_library if "trine" in document.name] == []


def test_a_distribution_gives_its_python_files_without_tests() -> None:
    found = documents(distribution_units("filelock"))
    assert "filelock:filelock/_api.py" in {document.name for document in found}
    assert {document.source for document in found} == {"filelock"}
    assert {document.group for document in found} == {"filelock/filelock"}


def test_a_distribution_that_is_not_installed_is_named() -> None:
    with pytest.raises(TrineError, match=r"'no-such-thing'.*not installed in this environment: pip install no-such"):
        documents(distribution_units("no-such-thing"))


@pytest.mark.parametrize("group", ["python/json", "numpy/numpy", "", "Größe"])
def test_the_split_is_a_hash_of_the_name(group: str) -> None:
    place = int(hashlib.sha256(group.encode()).hexdigest()[:16], 16) / 2**64
    assert is_held_out(group, place + 1e-9)
    assert not is_held_out(group, place)


def test_the_split_of_known_groups_never_changes() -> None:
    groups = [f"python/{name}" for name in ("argparse", "json", "asyncio", "email", "ast", "typing", "unittest", "re")]
    assert [group for group in groups if is_held_out(group, 0.1)] == ["python/argparse", "python/unittest"]
    assert 0.08 < sum(is_held_out(f"group {number}", 0.1) for number in range(5000)) / 5000 < 0.12
