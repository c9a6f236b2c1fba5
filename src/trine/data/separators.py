"""Many documents in one text file, told apart by a separator, streaming."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trine.runtime.errors import TrineError

BLANK_LINE = "blank_line"
CHUNK = 2**20
_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)*")


def pieces(stream: IO[bytes], separator: str, path: Path, max_size: int) -> Iterator[tuple[int, str]]:
    """(line where it begins, text) of each document, without blank lines before it and line ends after it.

    `separator` may stand anywhere, also within a line; `blank_line`: one or more lines of white space. White space
    after the last separator is no document. Bytes that are not UTF-8 become surrogates."""
    lines = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
    line = 1
    for text, between in (
        _paragraphs(lines, max_size) if separator == BLANK_LINE else _parts(lines, separator, max_size)
    ):
        if len(text) > max_size:
            raise TrineError(
                f"{path}:{line}: {max_size} characters without the separator {separator!r}; is it the right one?"
            )
        blank = _BLANK_LINES.match(text)
        first = blank.end() if blank else 0
        if between or text.strip():
            yield line + text.count("\n", 0, first), text[first:].rstrip("\r\n")
        line += text.count("\n") + between.count("\n")


def _paragraphs(lines: io.TextIOWrapper, max_size: int) -> Iterator[tuple[str, str]]:
    """(text, nothing): the blank lines between two texts go with the second."""
    held: list[str] = []
    size, has_words = 0, False
    for line in lines:
        if not line.strip() and has_words:
            yield "".join(held), ""
            held, size, has_words = [], 0, False
        held.append(line)
        size, has_words = size + len(line), has_words or bool(line.strip())
        if size > max_size:
            break
    yield "".join(held), ""


def _parts(lines: io.TextIOWrapper, separator: str, max_size: int) -> Iterator[tuple[str, str]]:
    """(text, the separator after it; at the end of the file nothing)."""
    text, searched = "", 0
    while len(text) <= max_size and (chunk := lines.read(CHUNK)):
        text, start = text + chunk, 0
        while (place := text.find(separator, max(searched, start))) >= 0:
            yield text[start:place], separator
            start = place + len(separator)
        text = text[start:]
        searched = max(len(text) - len(separator) + 1, 0)
    yield text, ""
