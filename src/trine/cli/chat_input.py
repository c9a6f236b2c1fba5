"""Where the messages of `trine chat` come from: a person at a terminal, or the lines of a pipe or file.

Whatever arrives, `read` gives whole messages of valid Unicode, or raises a `TrineError` that says which byte is not;
the next `read` goes on behind it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from trine.cli.standard_input import check_whole, input_stream, on_terminal, utf8_text


class MessageInput(Protocol):
    """Reads one message at a time. `hint` says how to write them; `attended`: a person sees what is said of them."""

    hint: str
    attended: bool

    def read(self) -> str | None:
        """The next message; None at the end."""
        ...


class LineInput:
    """Standard input that no person edits: every line is a message, in which \\n stands for a line break."""

    hint = "Write a line and press Enter; Ctrl-D leaves. \\n in a line stands for a line break. /help lists commands."
    attended = False

    def __init__(self) -> None:
        self._stream, self._number = input_stream(), 0

    def read(self) -> str | None:
        line = self._stream.readline()
        if not line:
            return None
        self._number += 1
        if isinstance(line, bytes):
            check_whole(line, self._number)
            line = utf8_text(line, self._number)
        return line.removeprefix("\ufeff").rstrip("\r\n").replace("\\n", "\n")


@contextmanager
def open_input(*, history: bool) -> Iterator[MessageInput]:
    """A line editor where a person types, else the lines of standard input."""
    screen = _screen() if on_terminal() else None
    if screen is None:
        yield LineInput()
        return
    from trine.cli.line_editor import LineEditor  # imports prompt_toolkit

    with LineEditor(screen, history_path() if history else None).opened() as editor:
        yield editor


def _screen() -> TextIO | None:
    """What shows what is typed: a terminal, even where the answers go into a file."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            return stream
    try:
        return open("/dev/tty", "w", encoding="utf-8")
    except OSError:
        return None


def history_path() -> Path | None:
    """The file of earlier messages, in the user's state folder; None where there is no such folder."""
    state = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_STATE_HOME", "")
    try:
        root = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:  # a user without a home
        return None
    return root / "trine" / "chat_history"
