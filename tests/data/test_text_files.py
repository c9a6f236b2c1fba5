"""Text as people have it: one file, many texts in one file, other encodings, other files than it says."""

import bz2
import codecs
import gzip
import lzma
import random
from pathlib import Path

import pytest

from tests.mutations import LFS_POINTER
from trine.config.corpus import CorpusConfig, SourceConfig
from trine.data.account import Tally
from trine.data.corpus import open_corpus
from trine.data.readers import read_file
from trine.records import Document
from trine.runtime.errors import TrineError


def read(path: Path, tally: Tally | None = None, **fields: object) -> list[Document]:
    source = SourceConfig(folder=path, **fields)  # type: ignore[arg-type]
    return list(read_file(path, path.name, source, tally or Tally(strict=True)))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def parts(path: Path, share: float, **more: object) -> tuple[list[str], list[str]]:
    corpus = open_corpus(CorpusConfig(folders=(path,), held_out_share=share, **more))  # type: ignore[arg-type]
    return [d.text for d in corpus.documents("train")], [d.text for d in corpus.documents("held_out")]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("name", ["input.txt", "a.txt", "b.md", "input.txt.gz", "c.py"])
def test_of_one_text_file_the_tail_is_held_out(tmp_path: Path, name: str, share: float) -> None:
    """4.10: whatever its name hashes to, as a file or as the only file of a folder."""
    text = "".join(f"line {number} of the text\n" for number in range(500))
    path = written(tmp_path / name, gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    for place in (path, tmp_path):
        train, held_out = parts(place, share)
        assert [len(train), len(held_out)] == [1, 1]
        assert train[0] + held_out[0] == text and train[0].endswith("\n")
        assert share <= len(held_out[0]) / len(text) < share + 0.01
    assert parts(path, 0) == ([text], [])


def test_a_text_of_one_line_is_cut_within_it(tmp_path: Path) -> None:
    """4.10."""
    train, held_out = parts(written(tmp_path / "a.txt", b"word " * 1000), 0.1)
    assert (len(train[0]), len(held_out[0])) == (4500, 500)


def test_the_tail_of_one_text_is_counted_as_a_record(tmp_path: Path) -> None:
    corpus = open_corpus(CorpusConfig(folders=(written(tmp_path / "a.txt", b"words\n" * 100),), held_out_share=0.1))
    tallies: dict[str, Tally] = {}
    assert len(list(corpus.documents("train", None, tallies))) == 1
    (tally,) = tallies.values()
    assert (tally.seen, tally.left_out) == (2, {"held out": 1})


def test_several_files_are_split_by_their_names_as_ever(tmp_path: Path) -> None:
    for number in range(40):
        written(tmp_path / f"{number}.txt", f"text {number}\n".encode())
    train, held_out = parts(tmp_path, 0.2)
    assert len(train) + len(held_out) == 40 and held_out


@pytest.mark.parametrize(
    "separator, between", [("<|endoftext|>", "<|endoftext|>"), ("---", "\n---\n"), ("blank_line", "\n\n \t\n")]
)
@pytest.mark.parametrize("seed", range(12))
def test_many_texts_in_one_file_are_told_apart(
    tmp_path: Path, separator: str, between: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.10: each is a document, named by its line, however the file is read in pieces."""
    monkeypatch.setattr("trine.data.separators.CHUNK", random.Random(seed).randrange(1, 40))
    random_ = random.Random(seed)
    texts = ["\n".join(f"word{random_.randrange(99)} é" for _ in range(random_.randrange(1, 4))) for _ in range(8)]
    path = written(tmp_path / "all.txt", between.join(texts).encode() + b"\n")
    tally = Tally()
    documents = read(path, tally, separator=separator)
    assert [document.text for document in documents] == texts
    lines = path.read_text().split("\n")
    for document in documents:
        start = int(document.name.rpartition(":")[2]) - 1
        assert document.text.split("\n")[0] in lines[start]
    assert tally.seen == len(documents)


def test_empty_texts_between_separators_are_counted_and_the_end_is_none(tmp_path: Path) -> None:
    """4.10, 1.8."""
    path = written(tmp_path / "a.txt", b"one<|e|><|e|>\n two\n<|e|>\n")
    corpus = open_corpus(CorpusConfig(folders=(path,), separator="<|e|>", held_out_share=0))
    tallies: dict[str, Tally] = {}
    assert [document.text for document in corpus.documents("train", None, tallies)] == ["one", " two"]
    assert next(iter(tallies.values())).left_out == {"empty": 1}


def test_a_separator_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trine.data.readers.MAX_TEXT", 100)
    monkeypatch.setattr("trine.data.separators.CHUNK", 50)
    for separator in ("===", "blank_line"):
        with pytest.raises(TrineError, match=rf"a\.txt:1: 100 characters without the separator '{separator}'"):
            read(written(tmp_path / "a.txt", b"line\n" * 100), separator=separator)


MARKS = {
    "utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE,
}  # fmt: skip
CONTENTS = {
    "a.txt": "Größe 日本 😀\r\nzwei\n", "a.csv": 'n,text\n1,"Größe 日本 😀\nzwei"\n', "a.tsv": "text\nGröße 日本 😀\n",
    "a.jsonl": '{"text": "Größe 日本 😀"}\n{"text": "zwei"}\n', "a.json": '[{"text": "Größe 日本 😀"}]',
}  # fmt: skip


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    """4.11: UTF-16 and UTF-32 are read as UTF-8 is, in every kind of file."""
    plain = read(written(tmp_path / name, CONTENTS[name].encode()))
    assert "Größe 日本 😀" in plain[0].text
    assert read(written(tmp_path / name, MARKS[encoding] + CONTENTS[name].encode(encoding))) == plain


@pytest.mark.parametrize("name", CONTENTS)
def test_utf16_that_is_cut_is_an_error(tmp_path: Path, name: str) -> None:
    """4.11."""
    path = written(tmp_path / name, (codecs.BOM_UTF16_LE + CONTENTS[name].encode("utf-16-le"))[:-1])
    with pytest.raises(TrineError, match=rf"{path} is not UTF-16-LE all through"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.tsv"])
@pytest.mark.parametrize(
    "encoding, letters, words",
    [
        ("latin-1", "é", "byte 0xe9, which is 'é' in Latin-1: set encoding: latin-1"),
        ("cp1252", "“", "byte 0x93, which is '“' in Windows-1252: set encoding: cp1252"),
        ("gb18030", "中文语料库", "it looks like GB18030 (GBK): set encoding: gb18030"),
    ],
)
def test_another_encoding_is_named_as_what_it_looks_like_with_its_line(
    tmp_path: Path, name: str, encoding: str, letters: str, words: str
) -> None:
    """4.11: and read where it is stated."""
    text = CONTENTS[name].replace("Größe 日本 😀", f"one {letters} two")
    path = written(tmp_path / name, text.encode(encoding))
    with pytest.raises(TrineError) as caught:
        read(path)
    line = 2 if name in ("a.csv", "a.tsv") else 1
    assert f"{path}:{line}: " in str(caught.value) and words in str(caught.value)
    assert f"one {letters} two" in read(path, encoding=encoding)[0].text


def test_python_code_may_declare_its_encoding(tmp_path: Path) -> None:
    """4.11: PEP 263."""
    code = "# -*- coding: latin-1 -*-\nname = 'é'\n"
    assert read(written(tmp_path / "a.py", code.encode("latin-1")))[0].text == code
    with pytest.raises(TrineError, match="not UTF-8"):
        read(written(tmp_path / "a.txt", code.encode("latin-1")))


@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.jsonl", "a.csv", "a.json", "a.parquet"])
def test_a_git_lfs_pointer_is_named_as_one(tmp_path: Path, name: str) -> None:
    """4.11."""
    with pytest.raises(TrineError, match=rf"{name}.* a git-lfs pointer.*git lfs pull"):
        read(written(tmp_path / name, LFS_POINTER))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.parquet"])
def test_a_web_page_in_place_of_records_is_named(tmp_path: Path, name: str) -> None:
    """4.11."""
    with pytest.raises(TrineError, match=rf"{name} is an HTML page"):
        read(written(tmp_path / name, b"\n<!DOCTYPE html><html>404</html>"))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"a\0b", "a NUL byte, so not text"),
        ("plain words".encode("utf-16-le"), "UTF-16 without a byte order mark: set encoding: utf-16-le"),
        (b"%PDF-1.7\n\xe2\xe3", "a PDF"),
        (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
        (b"\x89PNG\r\n\x1a\n\0", "a picture"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    """4.11."""
    with pytest.raises(TrineError, match=words):
        read(written(tmp_path / "a.txt", data))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compression_is_told_by_the_first_bytes(tmp_path: Path, pack: object) -> None:
    """3.8: a file may be called what it likes."""
    assert read(written(tmp_path / "a.txt", pack(b"words\n")))[0].text == "words\n"  # type: ignore[operator]
    assert read(written(tmp_path / "a.jsonl", pack(b'{"text": "words"}')))[0].text == "words"  # type: ignore[operator]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("data, words", [(b"", "is empty"), (b"plain words", "is not compressed")])
def test_what_is_called_compressed_and_is_not_is_refused(tmp_path: Path, suffix: str, data: bytes, words: str) -> None:
    """3.8: an empty one too, which a download left."""
    with pytest.raises(TrineError, match=rf"a\.txt\{suffix} is damaged or not a \{suffix} file: it {words}"):
        read(written(tmp_path / f"a.txt{suffix}", data))


@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_a_damaged_second_stream_is_an_error_and_not_less_text(tmp_path: Path, pack: object, suffix: str) -> None:
    """3.8."""
    one = pack(b"one\n")  # type: ignore[operator]
    assert read(written(tmp_path / f"a.txt{suffix}", one + one + b"\0" * 8))[0].text == "one\none\n"
    with pytest.raises(TrineError, match="is damaged"):
        read(written(tmp_path / f"a.txt{suffix}", one + b"X" + one[1:]))


def test_an_encoding_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not the name of a text encoding"):
        SourceConfig(folder=Path(), encoding="rot13")
    with pytest.raises(ValueError, match="encoding belongs to a folder"):
        SourceConfig(standard_library=True, encoding="latin-1")
