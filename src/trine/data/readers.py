"""Documents in files, plain or compressed, streaming in constant memory.

`.txt`, `.md` and `.py` are one document each, or, with a separator, as many as it separates; a record of `.jsonl`,
`.csv`, `.tsv` and `.parquet` (`record_files.py`) is one. Compression is not part of a document's name: compressing a
file changes neither its documents nor the train / held-out split. Line ends are kept; a byte order mark is removed.

Records that cannot be read are counted and listed with file and line in a `Tally`, or an error. Documents longer than
256 MB are refused, because they would have to fit in memory.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from trine.config.corpus import SourceConfig
from trine.data.account import Tally
from trine.data.opening import open_utf8, plain_name, stream_errors
from trine.data.record_files import MAX_TEXT, RecordForm, field_of, is_record_file, read_rows, suffix_of
from trine.data.separators import pieces
from trine.data.unlike_text import SAMPLE, declared_encoding, is_pointer, looks_like, why_not_utf8, why_nul
from trine.records import Document
from trine.runtime.json_values import is_unicode


def read_file(path: Path, name: str, source: SourceConfig, tally: Tally) -> Iterator[Document]:
    """The documents of one file; `name` is its name in the corpus, such as the path below the source's folder."""
    name = plain_name(name)
    if is_record_file(name):
        for row in read_rows(path, _form(source)):
            place = f"{path}:{row.line}"
            if row.record is None:
                tally.seen += 1
                tally.report(place, row.reason)
                continue
            document = record_document(row.record, f"{name}:{row.number}", place, source, "folder", tally)
            if document:
                yield document
        return
    with stream_errors(path), open_utf8(path, source.encoding) as stream:
        read = _separated_documents if source.separator else _whole_document
        yield from read(stream, path, name, source, tally)


def is_one_document(name: str, source: SourceConfig) -> bool:
    """Whether a file of this name is one document as a whole."""
    return not source.separator and not is_record_file(plain_name(name))


def named_fields(source: SourceConfig) -> dict[str, str]:
    """The fields that `source` names, each with the key that does."""
    keys = ("text_field", "license_field", "name_field", "group_field")
    return {getattr(source, key): key for key in reversed(keys) if getattr(source, key)}


def _form(source: SourceConfig) -> RecordForm:
    columns = named_fields(source)
    return RecordForm(tuple(columns), columns, source.encoding, source.delimiter, source.quoted)


def decoded(data: bytes, path: Path, tally: Tally) -> str | None:
    """A whole file's text, or None when it is not text (reported with the line of the first bad byte)."""
    if is_pointer(data[:SAMPLE]):
        tally.report(f"{path}:1", f"not text but {looks_like(data[:SAMPLE])}")
        return None
    text: str | None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        text = _as_declared(data) if suffix_of(path.name) == ".py" else None
        bad, reason = error.start, why_not_utf8(data, error.start)
    else:
        bad, reason = data.find(b"\0"), why_nul(data)
        if bad >= 0:
            text = None
    if text is None:
        line = data.count(b"\n", 0, bad) + 1
        tally.report(f"{path}:{line}", reason)
    return text


def _as_declared(data: bytes) -> str | None:
    """The text of Python code that declares its encoding, or None."""
    try:
        text = data.decode(declared_encoding(data) or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return None
    return None if "\0" in text else text


def record_document(
    record: Mapping[str, Any], name: str, place: str, source: SourceConfig, kind: str, tally: Tally
) -> Document | None:
    """The document in a record whose fields `source` names, or None when there is none (reported with `place`)."""
    tally.seen += 1
    there, text = field_of(record, source.text_field)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if not there:
        tally.report(place, f"no field {source.text_field!r}; there are {', '.join(map(str, record)) or 'none':.200}")
    elif not isinstance(text, str):
        tally.report(place, f"the field {source.text_field!r} is not text but {type(text).__name__}")
    elif not is_unicode(text):
        tally.report(place, f"the field {source.text_field!r} is {_why_no_unicode(text)}")
    else:
        name = _words(record, source.name_field) or name
        group = _words(record, source.group_field) or name
        return Document(text, name, kind, group, _words(record, source.license_field))
    return None


def _why_no_unicode(text: str) -> str:
    try:
        data = text.encode("utf-8", "surrogateescape")
        data.decode("utf-8")
    except UnicodeEncodeError:
        return "not UTF-8: it has half of a surrogate pair"
    except UnicodeDecodeError as error:
        return why_not_utf8(data, error.start)
    return "not UTF-8"


def _words(record: Mapping[str, Any], key: str | None) -> str:
    """A field as text. A list, as some data sets have for licences, is joined by AND."""
    value = field_of(record, key)[1] if key else None
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    words = " AND ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return words.encode("utf-8", "replace").decode()


def _whole_document(stream: IO[bytes], path: Path, name: str, source: SourceConfig, tally: Tally) -> Iterator[Document]:
    tally.seen += 1
    data = stream.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        tally.report(
            f"{path}:1",
            f"longer than {MAX_TEXT} bytes; give a separator of its documents, or give them as records (.jsonl)",
        )
        return
    text = decoded(data, path, tally)
    if text is not None:
        yield Document(text, name, "folder", group=name)


def _separated_documents(
    stream: IO[bytes], path: Path, name: str, source: SourceConfig, tally: Tally
) -> Iterator[Document]:
    """Many documents, named by the line where each begins."""
    for line, piece in pieces(stream, source.separator, path, MAX_TEXT):
        tally.seen += 1
        if not is_unicode(piece):
            tally.report(f"{path}:{line}", _why_no_unicode(piece))
        elif "\0" in piece:
            tally.report(f"{path}:{line}", why_nul(piece.encode()))
        else:
            yield Document(piece, f"{name}:{line}", "folder", group=f"{name}:{line}")
