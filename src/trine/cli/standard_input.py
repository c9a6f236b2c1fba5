"""Standard input as bytes, so that what is not UTF-8 is named by its place instead of ending in a traceback."""

import sys
from typing import IO

from trine.runtime.errors import TrineError

TERMINAL_LINE_BYTES = 4095
"""What a terminal on Linux passes on of a line that it edits itself; the rest is dropped without a word."""


def input_stream() -> IO[bytes] | IO[str]:
    """The bytes of standard input, or its text where a stand-in for it has no bytes below."""
    if sys.stdin is None:
        raise TrineError("standard input is closed; give it a terminal, a pipe or a file")
    return getattr(sys.stdin, "buffer", sys.stdin)


def on_terminal() -> bool:
    """Whether a person types at standard input."""
    return sys.stdin is not None and sys.stdin.isatty()


def input_text() -> str:
    """All of standard input, which must be UTF-8 and must not be empty."""
    data = input_stream().read()
    lines = (
        data.split("\n") if isinstance(data, str) else [utf8_text(line, n) for n, line in enumerate(_lines(data), 1)]
    )
    text = "\n".join(lines).removeprefix("\ufeff")
    if not text:
        raise TrineError("standard input is empty: --prompt - reads the prompt from there")
    return text


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        check_whole(line, number)
    return lines


def check_whole(line: bytes, number: int) -> None:
    """Raise where a terminal may have cut `line`."""
    if on_terminal() and len(line.rstrip(b"\n")) >= TERMINAL_LINE_BYTES:
        raise TrineError(
            f"line {number} has {TERMINAL_LINE_BYTES:,} bytes, at which a terminal cuts a line; put the text into a "
            "file and read that: < text.txt"
        )


def utf8_text(line: bytes, number: int) -> str:
    """A line of standard input, decoded; raises `TrineError` that names its first byte that is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrineError(
            f"standard input, line {number}: not UTF-8 at byte {error.start + 1} (0x{line[error.start]:02x}); convert "
            "the text first, for instance with iconv -f latin1 -t utf-8"
        ) from None
