"""Readers of text and record files, plain or compressed, streaming in constant memory.

`.txt`, `.md` and `.py` are one document each; a line of `.jsonl`, a row of `.csv` (with a header) and of `.parquet` is
one. Each may be compressed (`.gz`, `.xz`, `.zst`), which is not part of a document's name: compressing a file
changes neither its documents nor the train / held-out split. Line ends are kept; a byte order mark is removed.

Unreadable records are counted and listed with file and line (row, in parquet) in `Damage`. A truncated stream or a file
of another format is an error at once, because the amount of missing data is unknown. Documents longer than 256 MB and
unclosed quotations are refused, because they would have to fit in memory.
"""

import csv
import gzip
import io
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from trine.config.corpus import SourceConfig
from trine.records import Document
from trine.runtime.errors import TrineError

MAX_TEXT = 2**28
MAX_LISTED = 1000
ROWS_AT_A_TIME = 128
BYTE_ORDER_MARK = "\ufeff"


@dataclass
class Damage:
    """Unreadable records: `broken` of `seen`, the first thousand of them `listed`."""

    seen: int = 0
    broken: int = 0
    listed: list[str] = field(default_factory=list)

    def report(self, place: str, reason: str, records: int = 1) -> None:
        """Count `records` that cannot be read."""
        self.broken += records
        if len(self.listed) < MAX_LISTED:
            self.listed.append(f"{place}: {reason}")

    def merge(self, other: "Damage") -> None:
        """Add the damage of a later part of the source."""
        self.seen += other.seen
        self.broken += other.broken
        self.listed += other.listed[: MAX_LISTED - len(self.listed)]

    def check(self, source: str, max_share: float) -> None:
        """Raise when more than `max_share` of the records were broken."""
        if self.seen and self.broken / self.seen > max_share:
            first = "; ".join(self.listed[:5])
            raise TrineError(
                f"{source}: {self.broken} of {self.seen} records cannot be read ({first}); "
                f"more than {max_share:.0%} is refused: repair the files or raise max_broken_share"
            )


def read_file(path: Path, name: str, source: SourceConfig, damage: Damage) -> Iterator[Document]:
    """The documents of one file; `name` is its name in the corpus, such as the path below the source's folder."""
    name = plain_name(name)
    read = _READERS.get(Path(name).suffix, _whole_document)
    with _stream_errors(path), open_plain(path) as stream:
        yield from read(stream, path, name, source, damage)


def plain_name(name: str) -> str:
    """A file's name without the suffix of a compression."""
    return next((name.removesuffix(suffix) for suffix in _OPENERS if name.endswith(suffix)), name)


def is_readable(name: str) -> bool:
    """Whether a file of this name is text or records without being asked for by a pattern."""
    return Path(plain_name(name)).suffix in SUFFIXES


def open_plain(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked as they are read."""
    opener = _OPENERS.get(path.suffix)
    return opener(path) if opener else open(path, "rb")


def decoded(data: bytes, path: Path, damage: Damage) -> str | None:
    """A whole file's text, or None when it is not UTF-8 text (recorded with the line of the first bad byte)."""
    try:
        text = data.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
        bad, reason = data.find(b"\0"), "a NUL byte, so not text"
    except UnicodeDecodeError as error:
        text, bad, reason = "", error.start, "not UTF-8"
    if bad < 0:
        return text
    line = data.count(b"\n", 0, bad) + 1
    damage.report(f"{path}:{line}", reason)
    return None


def record_document(
    record: Mapping[str, Any], name: str, place: str, source: SourceConfig, kind: str, damage: Damage
) -> Document | None:
    """The document in a record whose fields `source` names, or None when there is none (recorded with `place`)."""
    damage.seen += 1
    text = record.get(source.text_field)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if source.text_field not in record:
        damage.report(place, f"no field {source.text_field!r}; there are {', '.join(map(str, record)) or 'none'}")
    elif not isinstance(text, str):
        damage.report(place, f"the field {source.text_field!r} is not text but {type(text).__name__}")
    elif not _is_unicode(text):
        damage.report(place, f"the field {source.text_field!r} is not UTF-8")
    else:
        name = _words(record, source.name_field) or name
        group = _words(record, source.group_field) or name
        return Document(text, name, kind, group, _words(record, source.license_field))
    return None


def _words(record: Mapping[str, Any], key: str | None) -> str:
    """A field as text. A list, as some data sets have for licences, is joined by AND."""
    value = record.get(key) if key else None
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    words = " AND ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return words.encode("utf-8", "replace").decode()


def _is_unicode(text: str) -> bool:
    """False for lone surrogates: bytes that did not decode, or halves of a pair that JSON escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _whole_document(
    stream: IO[bytes], path: Path, name: str, source: SourceConfig, damage: Damage
) -> Iterator[Document]:
    damage.seen += 1
    data = stream.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        damage.report(f"{path}:1", f"longer than {MAX_TEXT} bytes; split it, or give its texts as records (.jsonl)")
        return
    text = decoded(data, path, damage)
    if text is not None:
        yield Document(text, name, "folder", group=name)


def _jsonl_documents(
    stream: IO[bytes], path: Path, name: str, source: SourceConfig, damage: Damage
) -> Iterator[Document]:
    for number, line in _lines(stream):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            if len(line) > MAX_TEXT:
                raise ValueError(f"longer than {MAX_TEXT} bytes")
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if not isinstance(record, dict):
                raise ValueError(f"not a JSON object but {type(record).__name__}")
        except (ValueError, RecursionError) as error:
            damage.seen += 1
            damage.report(place, f"{type(error).__name__}: {error}")
            continue
        document = record_document(record, f"{name}:{number}", place, source, "folder", damage)
        if document:
            yield document


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line) from 1; a line that is too long is truncated to MAX_TEXT + 1 bytes."""
    number = 0
    while line := stream.readline(MAX_TEXT + 1):
        number += 1
        rest = line
        while len(rest) > MAX_TEXT and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_TEXT + 1)
        yield number, line


def _csv_documents(
    stream: IO[bytes], path: Path, name: str, source: SourceConfig, damage: Damage
) -> Iterator[Document]:
    """Bytes that are not UTF-8 pass through as surrogates, so that only their own record is unreadable."""
    csv.field_size_limit(MAX_TEXT)
    rows = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=""))
    try:
        header = next(rows, [])
        line = rows.line_num + 1
        for row in rows:
            place = f"{path}:{line}"
            if len(row) == len(header):
                record = dict(zip(header, row, strict=True))
                document = record_document(record, f"{name}:{line}", place, source, "folder", damage)
                if document:
                    yield document
            elif row:
                damage.seen += 1
                damage.report(place, f"{len(row)} fields where the header has {len(header)}")
            line = rows.line_num + 1
    except csv.Error as error:
        raise TrineError(f"{path}:{rows.line_num}: {error}; is a quotation mark not closed?") from error


def _parquet_documents(
    stream: IO[bytes], path: Path, name: str, source: SourceConfig, damage: Damage
) -> Iterator[Document]:
    """Reads a few rows at a time, only the columns needed; rows are numbered from 1."""
    with _seekable(stream, path) as file:
        table = parquet.ParquetFile(file, pre_buffer=False)
        wanted = {source.text_field, source.license_field, source.name_field, source.group_field}
        columns = [column for column in table.schema_arrow.names if column in wanted]
        if source.text_field not in columns:
            damage.seen += table.metadata.num_rows
            found = ", ".join(table.schema_arrow.names)
            damage.report(f"{path}:1", f"no column {source.text_field!r}; there are {found}", table.metadata.num_rows)
            return
        number = 0
        for batch in table.iter_batches(ROWS_AT_A_TIME, columns=columns, use_threads=False):
            values = [_column_values(batch.column(column)) for column in columns]
            for row in zip(*values, strict=True):
                number += 1
                record = dict(zip(columns, row, strict=True))
                place = f"{path}:{number}"
                document = record_document(record, f"{name}:{number}", place, source, "folder", damage)
                if document:
                    yield document


def _column_values(column: Any) -> list[Any]:
    """The values of a column, texts as bytes: decoding would fail for the whole column if one is not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    values: list[Any] = (column.cast(pa.large_binary()) if is_text else column).to_pylist()
    return values


@contextmanager
def _seekable(stream: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """Parquet is read from its end, so a compressed file is first decompressed into a temporary file."""
    if path.suffix not in _OPENERS:
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 2**20)
        file.seek(0)
        yield file


@contextmanager
def _stream_errors(path: Path) -> Iterator[None]:
    """Raise errors of decompressors and pyarrow as `TrineError` that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise TrineError(f"{path} is damaged or not a {''.join(path.suffixes[-2:])} file: {error}") from error


def _open_zst(path: Path) -> IO[bytes]:
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))


_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": _open_zst}
_READERS: dict[str, Callable[[IO[bytes], Path, str, SourceConfig, Damage], Iterator[Document]]] = {
    ".jsonl": _jsonl_documents,
    ".csv": _csv_documents,
    ".parquet": _parquet_documents,
}
SUFFIXES = (".txt", ".md", ".py", *_READERS)
