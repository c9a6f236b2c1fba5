"""Files of records: a line of JSON Lines, an element of a JSON array, a row of CSV, TSV and Parquet is one record.

One care for corpora, examples, prompts and preferences alike. Which form a file has is decided by its name, in any
case, and for JSON by what stands in it: an array of records, one record, or a record a line. A record that cannot be
read is given with its line (in Parquet its row) and the reason, and breaks nobody else. Where it is not known how much
is missing (a damaged stream, an unclosed quotation, a truncated array, a column that is not there), the file is refused
at once, by a `TrineError` that names the place.
"""

import csv
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from trine.data.opening import open_plain, open_utf8, plain_name, stream_errors
from trine.data.quotations import QuotedLines, swallowed_rows
from trine.data.unlike_text import SAMPLE, looks_unlike_records, why_not_utf8
from trine.runtime.errors import TrineError
from trine.runtime.json_values import DECODER, json_reason, parse_json

MAX_TEXT = 2**28
ROWS_AT_A_TIME = 128
DELIMITERS = (",", ";", "\t", "|")
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*JSON_LINES, ".json", ".csv", ".tsv", ".parquet")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Row:
    """A record, or the reason why it cannot be read.

    `number` names it within its file and is its line, but for arrays and Parquet, where it counts records from 1.
    `line` is where to look for it (in Parquet its row)."""

    number: int
    line: int
    record: Mapping[str, Any] | None
    reason: str = ""


@dataclass(frozen=True)
class RecordForm:
    """What is known of the records of a file.

    `fields`: those that are looked for; the delimiter of a table is found by them. `columns`: those that are read, each
    with the option that named it, for messages: a table without one of them is refused; None: all, none of them needed.
    `delimiter` None: by the header. `quoted` False: quotation marks are ordinary characters.
    """

    fields: tuple[str, ...]
    columns: Mapping[str, str] | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    quoted: bool = True


def suffix_of(name: str) -> str:
    """The suffix that says what a file holds, compressed or not, in small letters."""
    return Path(plain_name(name)).suffix.lower()


def is_record_file(name: str) -> bool:
    """Whether a file of this name holds records."""
    return suffix_of(name) in SUFFIXES


def read_rows(path: Path, form: RecordForm) -> Iterator[Row]:
    """The records of a file in order, a few at a time; a file of an unknown name is read as JSON Lines."""
    suffix = suffix_of(path.name)
    with stream_errors(path):
        if suffix == ".parquet":
            with open_plain(path) as stream:
                yield from _parquet_rows(stream, path, form)
            return
        with open_utf8(path, form.encoding) as stream:
            unlike = looks_unlike_records(head_of(stream))
            if unlike:
                raise TrineError(f"{path} is {unlike}")
            yield from _csv_rows(stream, path, form) if suffix in (".csv", ".tsv") else _json_rows(stream, path)


def head_of(stream: IO[bytes]) -> bytes:
    """The beginning of a stream that `open_utf8` opened, without moving on."""
    head: bytes = stream.peek(SAMPLE)[:SAMPLE]  # type: ignore[attr-defined]
    return head


def field_of(record: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """(whether it is there, its value) of a field; `data.text` is the field `text` of the record in `data`."""
    if name in record:
        return True, record[name]
    first, dot, rest = name.partition(".")
    inner = record.get(first) if dot else None
    return field_of(inner, rest) if isinstance(inner, Mapping) else (False, None)


def columns_of(form: RecordForm, found: Sequence[str], place: str) -> list[str]:
    """Which columns of a table to read. Raises `TrineError` where one is missing that was asked for."""
    if form.columns is None:
        return list(found)
    roots = {field: field if field in found else field.partition(".")[0] for field in form.columns}
    for field, root in roots.items():
        if root not in found:
            raise TrineError(
                f"{place}: no column {field!r}; there are {', '.join(found):.200}: set {form.columns[field]} to one of "
                "them"
            )
    return [column for column in found if column in roots.values()]


def _json_rows(stream: IO[bytes], path: Path) -> Iterator[Row]:
    """A record a line, unless the file begins as an array, or is called .json and is one value."""
    if head_of(stream).lstrip().startswith(b"["):
        return _array_rows(_whole_text(stream, path), path)
    return _value_or_line_rows(stream, path) if suffix_of(path.name) == ".json" else _line_rows(stream, 1)


def _value_or_line_rows(stream: IO[bytes], path: Path) -> Iterator[Row]:
    """One record over all lines, or, since many call that `.json` too, a record a line."""
    line = stream.readline(MAX_TEXT + 1)
    try:
        parse_json(line)
    except ValueError:
        record = _parsed(_whole_text(stream, path, line), path)
        yield _row(1, 1, record)
    else:
        yield from _line_rows(io.BytesIO(line), 1)
        yield from _line_rows(stream, 2)


def _parsed(text: str, path: Path) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise TrineError(f"{path}:{getattr(error, 'lineno', 1)}: {json_reason(error)}") from None


def _whole_text(stream: IO[bytes], path: Path, before: bytes = b"") -> str:
    data = before + stream.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise TrineError(f"{path} is one JSON value of more than {MAX_TEXT} bytes: give a record a line (.jsonl)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TrineError(f"{path}:{line}: {why_not_utf8(data, error.start)}") from None


def _array_rows(text: str, path: Path) -> Iterator[Row]:
    """The elements of a JSON array. Where one is no JSON, the rest cannot be told apart, so the file is refused."""
    place = _after_space(text, _after_space(text, 0) + 1)
    number, line, counted = 0, 1, 0
    while text[place : place + 1] != "]":
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise TrineError(f"{path}:{getattr(error, 'lineno', line)}: {json_reason(error)}") from None
        number += 1
        yield _row(number, line, value)
        place = _after_space(text, end)
        if text[place : place + 1] == ",":
            place = _after_space(text, place + 1)
        elif text[place : place + 1] != "]":
            raise _misplaced(path, text, place, f"expected ',' or ']' after record {number} of the array; is it whole?")
    end = _after_space(text, place + 1)
    if end < len(text):
        raise _misplaced(path, text, end, "something follows the array of records; is this JSON Lines?")


def _misplaced(path: Path, text: str, place: int, words: str) -> TrineError:
    line = text.count("\n", 0, place) + 1
    return TrineError(f"{path}:{line}: {words}")


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _row(number: int, line: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, line, value)
    return Row(number, line, None, f"not a JSON object but {type(value).__name__}")


def _line_rows(stream: IO[bytes], first: int) -> Iterator[Row]:
    for number, line in _lines(stream, first):
        if not line.strip():
            continue
        if len(line) > MAX_TEXT:
            yield Row(number, number, None, f"longer than {MAX_TEXT} bytes")
            continue
        try:
            yield _row(number, number, parse_json(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            yield Row(number, number, None, why_not_utf8(line, error.start))
        except ValueError as error:
            cut = "" if line.endswith(b"\n") else "; it is the last line: is the file whole?"
            yield Row(number, number, None, f"{error}{cut}")


def _lines(stream: IO[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    """(number, line); a line that is too long is truncated to MAX_TEXT + 1 bytes."""
    number = first
    while line := stream.readline(MAX_TEXT + 1):
        rest = line
        while len(rest) > MAX_TEXT and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_TEXT + 1)
        yield number, line
        number += 1


def _csv_rows(stream: IO[bytes], path: Path, form: RecordForm) -> Iterator[Row]:
    """Bytes that are not UTF-8 pass through as surrogates, so that only their own record is unreadable."""
    csv.field_size_limit(MAX_TEXT)
    lines = QuotedLines(io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline=""))
    first, delimiter = _header_line(lines, path, form)
    rows = csv.reader(
        chain(first, lines), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE,
        strict=True,
    )  # fmt: skip
    begun = lines.number
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(header, f"{path}:{begun}", form)
        begun = lines.begin_row()
        for row in rows:
            if row:
                yield _table_row(row, header, begun, delimiter, path)
            begun = lines.begin_row()
    except csv.Error as error:
        raise TrineError(
            f"{path}:{lines.opened or begun}: a quotation that opens here is not closed as it should be ({error}): "
            "close it, double the quotation marks inside it, or set quoted: false where marks are ordinary characters"
        ) from error


def _header_line(lines: QuotedLines, path: Path, form: RecordForm) -> tuple[list[str], str]:
    """The first line that is not empty, if any, and the delimiter: the one that shows most of the fields looked for."""
    line = next((line for line in lines if line.strip()), "")
    stated = re.fullmatch(r"sep=(.)\s*", line)  # as Excel writes it
    if stated:
        return [next(lines, "")], form.delimiter or stated[1]
    if form.delimiter or suffix_of(path.name) == ".tsv":
        return [line] * bool(line), form.delimiter or "\t"

    def found(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        return sum(field in names for field in form.fields), len(names)

    return [line] * bool(line), max(DELIMITERS, key=found)


def _check_header(header: list[str], place: str, form: RecordForm) -> None:
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise TrineError(f"{place}: the column {twice!r} appears twice; rename one of them")
    if header:
        columns_of(form, header, place)


def _table_row(row: list[str], header: list[str], line: int, delimiter: str, path: Path) -> Row:
    if len(row) != len(header):
        return Row(line, line, None, f"{len(row)} fields where the header has {len(header)}")
    if any("\0" in field for field in row):
        return Row(line, line, None, "a NUL byte, so not text")
    swallowed = swallowed_rows(row, delimiter) if any("\n" in field for field in row) else 0
    if swallowed:
        raise TrineError(
            f"{path}:{line}: a quotation that opens in this row holds {swallowed} lines that are rows themselves: "
            "close it where it should end (if it is right as it is, give the records as .jsonl or .parquet)"
        )
    return Row(line, line, dict(zip(header, row, strict=True)))


def _parquet_rows(stream: IO[bytes], path: Path, form: RecordForm) -> Iterator[Row]:
    """Reads a few rows at a time, only the columns needed; rows are numbered from 1."""
    with _seekable(stream, path) as file:
        table = parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        columns = columns_of(form, table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(ROWS_AT_A_TIME, columns=columns, use_threads=False):
            values = [_column_values(batch.column(column)) for column in columns]
            for row in zip(*values, strict=True):
                number += 1
                yield Row(number, number, dict(zip(columns, row, strict=True)))
        if number != table.metadata.num_rows:
            raise TrineError(f"{path} is damaged: it has {number} of {table.metadata.num_rows} rows")


def _column_values(column: Any) -> list[Any]:
    """The values of a column. Bytes of text that are not UTF-8 become surrogates, which break only their record."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        found = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in found]
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError) as error:  # such as a date that Python has none of
        raise pa.ArrowInvalid(str(error)) from error
    return values


@contextmanager
def _seekable(stream: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """Parquet is read from its end, so a compressed file is first decompressed into a temporary file."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        _check_is_parquet(stream, path)
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 2**20)
        file.seek(0)
        yield file


def _check_is_parquet(stream: IO[bytes], path: Path) -> None:
    head = head_of(stream)
    unlike = None if head.startswith(b"PAR1") else looks_unlike_records(head)
    if unlike:
        raise TrineError(f"{path} is {unlike}")
