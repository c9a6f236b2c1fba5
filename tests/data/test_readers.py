"""Every format, packed or not, gives the same documents; what cannot be read is named by file and line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from trine.config.corpus import SourceConfig
from trine.data import readers, record_files
from trine.data.account import MAX_LISTED, Tally
from trine.data.readers import read_file
from trine.records import Document
from trine.runtime.errors import TrineError

TEXTS = ["def f():\n    return 1\n", 'quoted "text", with commas', "Größe\r\nzwei", "", "日本\n\n"]
BROKEN = b"caf\xe9"


def as_jsonl(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts).encode()


def as_csv(texts: Sequence[str]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("n", "text"), *((1, text) for text in texts)])
    return file.getvalue().encode()


def as_parquet(texts: Sequence[str], rows_of_a_group: int = 2) -> bytes:
    file = io.BytesIO()
    parquet.write_table(
        pa.table({"n": [1] * len(texts), "text": pa.array(list(texts), pa.string())}),
        file,
        row_group_size=rows_of_a_group,
    )
    return file.getvalue()


FORMATS: dict[str, Callable[[Sequence[str]], bytes]] = {".jsonl": as_jsonl, ".csv": as_csv, ".parquet": as_parquet}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)
}  # fmt: skip


def read(path: Path, tally: Tally | None = None, **fields: Any) -> list[Document]:
    source = SourceConfig(folder=path, **fields)
    return list(read_file(path, path.name, source, tally if tally is not None else Tally()))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that hypothesis repeats."""
    return tmp_path_factory.mktemp("readers")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", FORMATS)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6))
@settings(max_examples=8)
def test_records_come_back_from_every_format_and_packing(
    folder: Path, suffix: str, packing: str, texts: list[str]
) -> None:
    if suffix == ".csv":
        texts = [text.replace("\0", "") for text in texts]  # which JSON escapes, and a table cannot
    path = written(folder / f"rows{suffix}{packing}", PACKINGS[packing](FORMATS[suffix](texts)))
    tally = Tally()
    assert [document.text for document in read(path, tally)] == texts
    assert (tally.seen, tally.broken) == (len(texts), 0)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".py"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
@settings(max_examples=10)
def test_a_text_file_is_one_document_letter_for_letter(folder: Path, suffix: str, packing: str, text: str) -> None:
    path = written(folder / f"file{suffix}{packing}", PACKINGS[packing](text.encode()))
    assert read(path) == [Document(text, f"file{suffix}", "folder", f"file{suffix}")]


@pytest.mark.parametrize("suffix", FORMATS)
def test_packing_changes_no_name_and_so_no_side_of_the_split(tmp_path: Path, suffix: str) -> None:
    names = [
        [
            (document.name, document.group)
            for document in read(written(tmp_path / f"rows{suffix}{packing}", pack(FORMATS[suffix](TEXTS))))
        ]
        for packing, pack in PACKINGS.items()
    ]
    assert names == [names[0]] * len(PACKINGS)
    assert names[0][0][0].startswith(f"rows{suffix}:")


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_recipe_names_the_fields(tmp_path: Path, suffix: str) -> None:
    row = {"content": "x = 1", "license": "mit", "path": "a/b.py", "repo": "me/it"}
    data = {
        ".jsonl": (json.dumps(row) + "\n").encode(),
        ".csv": (",".join(row) + "\r\n" + ",".join(row.values()) + "\r\n").encode(),
    }
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_bytes(data[suffix])
    fields = {"text_field": "content", "license_field": "license", "name_field": "path", "group_field": "repo"}
    assert read(path, **fields) == [Document("x = 1", "a/b.py", "folder", "me/it", "mit")]


def test_several_licences_of_a_record_hold_together(tmp_path: Path) -> None:
    path = written(
        tmp_path / "rows.jsonl", b'{"text": "x", "licenses": ["MIT", "ISC"]}\n{"text": "y", "licenses": null}\n'
    )
    assert [document.license for document in read(path, license_field="licenses")] == ["MIT AND ISC", ""]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".py"])
def test_a_byte_order_mark_is_not_text(tmp_path: Path, suffix: str) -> None:
    data = FORMATS[suffix](["x"]) if suffix in FORMATS else b"x"
    assert [d.text for d in read(written(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + data))] == ["x"]


def test_jsonl_with_windows_line_ends_and_empty_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'\r\n{"text": "one\\r\\n"}\r\n\r\n{"text": "two"}')
    assert [(d.text, d.name) for d in read(path)] == [("one\r\n", "a.jsonl:2"), ("two", "a.jsonl:4")]


def test_csv_fields_over_several_lines_are_named_by_their_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'id,text\r\n1,"one\ntwo\r\nthree"\r\n\r\n2,"say ""hi"""\r\n3,last')
    assert [(d.text, d.name) for d in read(path)] == [
        ("one\ntwo\r\nthree", "a.csv:2"), ('say "hi"', "a.csv:6"), ("last", "a.csv:7")
    ]  # fmt: skip


def test_a_field_far_beyond_what_csv_allows_by_default(tmp_path: Path) -> None:
    text = "x" * 400_000
    assert [d.text for d in read(written(tmp_path / "a.csv", as_csv([text, "y"])))] == [text, "y"]


def test_a_quotation_that_never_closes_is_refused_rather_than_swallowing_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.6: also where it would not fit in memory."""
    monkeypatch.setattr(record_files, "MAX_TEXT", 1000)
    path = written(tmp_path / "a.csv", b'id,text\n1,"open\n' + b"2,more\n" * 1000)
    with pytest.raises(TrineError, match=rf"{path}:2: a quotation that opens here is not closed .*field limit"):
        read(path)


def test_rows_with_too_few_or_too_many_fields_are_broken(tmp_path: Path) -> None:
    tally = Tally()
    path = written(tmp_path / "a.csv", b"id,text\n1,good\n2\n3,a,b\n")
    assert [d.text for d in read(path, tally)] == ["good"]
    assert tally.listed == [
        f"{path}:3: 1 fields where the header has 2", f"{path}:4: 3 fields where the header has 2"
    ]  # fmt: skip


@pytest.mark.parametrize("suffix, place", [(".jsonl", 2), (".csv", 3)])
def test_a_record_that_does_not_decode_breaks_nobody_else(tmp_path: Path, suffix: str, place: int) -> None:
    data = FORMATS[suffix](["one", "café", "three"]).replace(b"caf\\u00e9", BROKEN).replace("café".encode(), BROKEN)
    path, tally = written(tmp_path / f"a{suffix}", data), Tally()
    assert [document.text for document in read(path, tally)] == ["one", "three"]
    assert (tally.seen, tally.broken) == (3, 1)
    assert tally.listed[0].startswith(f"{path}:{place}: ")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_that_do_not_decode_or_are_null_are_named(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([b"one", BROKEN, None, b"four"], pa.binary())
    words = pa.Array.from_buffers(pa.string(), 4, column.buffers(), 1)
    words = words.dictionary_encode() if pa.types.is_dictionary(kind) else words.cast(kind, safe=False)
    path, tally = tmp_path / "a.parquet", Tally()
    parquet.write_table(pa.table({"text": words}), path)
    assert [document.text for document in read(path, tally)] == ["one", "four"]
    assert tally.listed == [
        f"{path}:2: the field 'text' is not UTF-8: byte 0xe9, which is 'é' in Latin-1: set encoding: latin-1, or "
        "convert it with iconv -f LATIN-1 -t UTF-8",
        f"{path}:3: the field 'text' is not text but NoneType",
    ]  # fmt: skip


def test_a_parquet_file_without_the_column_is_refused_with_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"content": ["a", "b", "c"], "id": [1, 2, 3]}), path)
    with pytest.raises(TrineError, match=rf"{path}: no column 'text'; there are content, id: set text_field"):
        read(path)


@pytest.mark.parametrize(
    "line, words",
    [
        (b"{", "not JSON: Expecting property name"),
        (b"[1]", "not a JSON object but list"),
        (b'{"txt": 1}', "no field 'text'; there are txt"),
        (b'{"text": 5}', "is not text but int"),
        (b'{"text": "\\ud800"}', "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(tmp_path: Path, line: bytes, words: str) -> None:
    path, tally = written(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + line + b'\n{"text": "fine"}\n'), Tally()
    assert len(read(path, tally)) == 2
    assert (tally.seen, tally.broken) == (3, 1)
    assert tally.listed[0].startswith(f"{path}:2: ") and words in tally.listed[0]


@pytest.mark.parametrize("data, line", [(b"x = 1\n\x80\x81\xff\xfe", 2), (b"a\nb\n\x7fELF\x01\0\0", 3)])
def test_binary_garbage_named_py_is_named_by_its_line(tmp_path: Path, data: bytes, line: int) -> None:
    path, tally = written(tmp_path / "a.py", data), Tally()
    assert read(path, tally) == []
    assert tally.broken == 1 and tally.listed[0].startswith(f"{path}:{line}: ")


HARM: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:-20],
    "something else": lambda data: b"plain text" * 9,
    "one byte changed": lambda data: _with_one_changed(data, len(data) // 2),
}


def _with_one_changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    "packing, harm",
    # A .zst file carries a checksum only where its writer was asked for one.
    [(p, h) for p in PACKINGS for h in HARM if p and (p, h) != (".zst", "one byte changed")],
)
def test_a_damaged_stream_is_an_error_that_names_the_file(tmp_path: Path, suffix: str, packing: str, harm: str) -> None:
    texts = [f"text number {number * number}\n" for number in range(2000)]
    plain = FORMATS[suffix](texts) if suffix in FORMATS else "".join(texts).encode()
    path = written(tmp_path / f"a{suffix}{packing}", HARM[harm](PACKINGS[packing](plain)))
    # bzip2 tells a damaged block by the sum after it: a table may be refused for its header before.
    words = "" if (packing, harm) == (".bz2", "one byte changed") else " is damaged or not a "
    with pytest.raises(TrineError, match=f"{path}{words}"):
        read(path)


def test_a_file_that_is_no_parquet_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"a\.parquet is damaged or not a \.parquet file"):
        read(written(tmp_path / "a.parquet", b"PAR1 but not really PAR1"))


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_streams_that_were_joined_are_read_to_the_last(tmp_path: Path, packing: str) -> None:
    path = written(tmp_path / f"a.txt{packing}", PACKINGS[packing](b"one\n") + PACKINGS[packing](b"two\n"))
    assert read(path)[0].text == "one\ntwo\n"


def test_the_list_of_damage_is_capped_and_the_count_is_not(tmp_path: Path) -> None:
    tally = Tally()
    read(written(tmp_path / "a.jsonl", b"{\n" * (MAX_LISTED + 500)), tally)
    assert (tally.seen, tally.broken, len(tally.listed)) == (MAX_LISTED + 500, MAX_LISTED + 500, MAX_LISTED)


def test_damage_found_by_several_readers_adds_up() -> None:
    one, two = Tally(10, 1, ["a:1: x"]), Tally(5, 2, ["b:1: y", "b:2: z"])
    one.merge(two)
    assert one == Tally(15, 3, ["a:1: x", "b:1: y", "b:2: z"])


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_text_too_long_to_hold_is_broken(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_TEXT", 100)
    monkeypatch.setattr(record_files, "MAX_TEXT", 100)
    data = as_jsonl(["short", "x" * 1000, "short"]) if suffix == ".jsonl" else b"x" * 101
    path, tally = written(tmp_path / f"a{suffix}", data), Tally()
    assert [document.text for document in read(path, tally)] == (["short"] * 2 if suffix == ".jsonl" else [])
    assert tally.broken == 1 and "longer than 100 bytes" in tally.listed[0]


@pytest.mark.parametrize("suffix, packing", [(".jsonl", ".gz"), (".jsonl", ".zst"), (".csv", "")])
def test_records_stream_in_constant_memory(tmp_path: Path, suffix: str, packing: str) -> None:
    """5 MB of text, read with less than 1 MB at a time."""
    path = written(
        tmp_path / f"a{suffix}{packing}", PACKINGS[packing](FORMATS[suffix](["some line of text\n" * 500] * 600))
    )
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_file(path, path.name, SourceConfig(folder=path), Tally())) == 600
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_parquet_streams_row_group_by_row_group(tmp_path: Path) -> None:
    """10 MB in row groups of 500 kB: Arrow never holds 3 MB."""
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet([os.urandom(5000).hex() for _ in range(1000)], rows_of_a_group=50))
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for _ in read_file(path, path.name, SourceConfig(folder=path), Tally()):
        count, most = count + 1, max(most, pa.total_allocated_bytes() - before)
    assert count == 1000 and most < 3_000_000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".py.gz", ".jsonl.xz", ".csv.zst"])
@given(data=st.data())
@settings(max_examples=20)
def test_no_harm_to_a_file_ends_in_anything_but_documents_or_an_error_with_its_name(
    folder: Path, suffix: str, data: st.DataObject
) -> None:
    name, packing = (suffix, "") if suffix in FORMATS else (suffix[: suffix.rindex(".")], suffix[suffix.rindex(".") :])
    plain = FORMATS[name](TEXTS * 3) if name in FORMATS else "".join(TEXTS).encode()
    harmed = bytearray(PACKINGS[packing](plain))
    for place in data.draw(st.lists(st.integers(0, len(harmed) - 1), min_size=1, max_size=5)):
        harmed[place] = data.draw(st.integers(0, 255))
    path = written(folder / f"harmed{suffix}", bytes(harmed[: data.draw(st.integers(0, len(harmed)))]))
    tally = Tally()
    try:
        documents = read(path, tally)
    except TrineError as error:
        assert str(path) in str(error)
    else:
        assert tally.seen == tally.broken + len(documents)
