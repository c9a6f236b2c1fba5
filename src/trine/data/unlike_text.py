"""What a file is that is not the text or the records it should be, named as what it looks like."""

import io
import re
import tokenize

_BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/": "a git-lfs pointer, not the file itself: run `git lfs pull`",
    b"version https://hawser.github.com/spec/": "a git-lfs pointer, not the file itself: run `git lfs pull`",
    b"%PDF-": "a PDF: extract its text first",
    b"PK\x03\x04": "a zip archive (or a document that is one): unpack it first",
    b"PAR1": "Parquet: name it .parquet",
    b"\x1f\x8b": "gzip, compressed twice",
    b"BZh": "bzip2, compressed twice",
    b"\xfd7zXZ\0": "xz, compressed twice",
    b"\x28\xb5\x2f\xfd": "zstd, compressed twice",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x7fELF": "a program",
}
_POINTER = b"version https://"
_HTML = re.compile(rb"\s*(<!doctype html|<html)", re.I)
_RUN = re.compile(rb"[\x80-\xff]+")
SAMPLE = 4096


def looks_like(head: bytes) -> str | None:
    """What the bytes are, if not text and not records; None where they do not tell. Text of web pages is text."""
    return next((words for beginning, words in _BEGINNINGS.items() if head.startswith(beginning)), None)


def is_pointer(head: bytes) -> bool:
    """Whether this is what git-lfs leaves in place of a file: text, but never the text that was meant."""
    return head.startswith(_POINTER) and looks_like(head) is not None


def looks_unlike_records(head: bytes) -> str | None:
    """`looks_like` for a file of records, which a web page is not."""
    if _HTML.match(head):
        return "an HTML page (of an error, or to log in?), not the file itself: download it again"
    return looks_like(head)


def why_not_utf8(data: bytes, bad: int) -> str:
    """Which encoding the bytes around `bad`, the first that is no UTF-8, look like."""
    known = looks_like(data[:SAMPLE])
    if known:
        return f"not text but {known}"
    sample = data[max(bad - 100, 0) : bad + SAMPLE]
    runs = [len(run) for run in _RUN.findall(sample)]
    if max(runs, default=0) >= 4 and _decodes(sample[_first_run(sample) :], "gb18030"):
        return "not UTF-8; it looks like GB18030 (GBK): set encoding: gb18030, or convert it with iconv"
    name, words = ("cp1252", "Windows-1252") if re.search(rb"[\x80-\x9f]", sample) else ("latin-1", "Latin-1")
    letter = data[bad : bad + 1].decode(name, "replace")
    return (
        f"not UTF-8: byte {data[bad]:#04x}, which is {letter!r} in {words}: "
        f"set encoding: {name}, or convert it with iconv -f {words.upper()} -t UTF-8"
    )


def why_nul(data: bytes) -> str:
    """What text with NUL bytes is."""
    known = looks_like(data[:SAMPLE])
    if known:
        return f"not text but {known}"
    head = data[:SAMPLE]
    for name, places in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(places) > 1 and places.count(0) > 0.4 * len(places):
            return f"a NUL byte; it looks like UTF-16 without a byte order mark: set encoding: {name}"
    return "a NUL byte, so not text"


def declared_encoding(data: bytes) -> str | None:
    """The encoding that Python code declares in its first two lines (PEP 263), or None."""
    try:
        encoding, lines = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:
        return None
    return encoding if any(b"coding" in line for line in lines) else None


def _first_run(sample: bytes) -> int:
    found = _RUN.search(sample)
    return found.start() if found else 0


def _decodes(data: bytes, encoding: str) -> bool:
    """Whether it does, its last character apart, which may be cut."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start >= len(data) - 4
    return True
