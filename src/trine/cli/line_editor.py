"""Messages from a person at a terminal: editing, history, and pasted text as one message.

prompt_toolkit reads key by key, so that no line is cut at the 4,095 bytes of a terminal's own line editing, and asks
the terminal to mark what is pasted (bracketed paste). Both hold between two prompts too, while an answer is written, so
that what is typed or pasted then is whole and waits for the next prompt. Only `trine chat` imports prompt_toolkit.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.utils import is_dumb_terminal

from trine.runtime.errors import TrineError
from trine.runtime.progress import say

LONGEST_REMEMBERED = 100_000


class LineEditor:
    """A `MessageInput` that shows what is typed on `screen` and remembers messages in the file `history`, if given."""

    hint = "Write a message and press Enter; Alt-Enter begins a new line, Ctrl-D leaves. /help lists commands."
    attended = True

    def __init__(self, screen: TextIO, history: Path | None) -> None:
        with create_app_session(output=PlainTextOutput(screen) if is_dumb_terminal() else create_output(screen)):
            self._session: PromptSession[str] = PromptSession(
                "> ",
                history=_history(history),
                key_bindings=_keys(),
                prompt_continuation="  ",
                enable_suspend=True,
                reserve_space_for_menu=0,
            )

    @contextmanager
    def opened(self) -> Iterator["LineEditor"]:
        """The terminal in the state for a conversation; as it was, afterwards."""
        with _nothing_cut():
            _mark_pastes(self._session.output, True)
            try:
                yield self
            finally:
                _mark_pastes(self._session.output, False)

    def read(self) -> str | None:
        try:
            text = self._session.prompt()
        except EOFError:
            return None
        except KeyboardInterrupt:
            say("(Ctrl-D or /exit leaves)")
            return ""
        finally:
            _mark_pastes(self._session.output, True)
        return _valid(text)


@contextmanager
def _nothing_cut() -> Iterator[None]:
    """Turn the terminal's own line editing and its echo off; Ctrl-C goes on to interrupt."""
    if sys.platform == "win32":
        yield
        return
    import termios

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    keyboard, default = sys.stdin.fileno(), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, leave)  # through the lines below, which give the terminal back
    before = termios.tcgetattr(keyboard)
    changed = termios.tcgetattr(keyboard)
    changed[0] &= ~termios.ICRNL  # Enter stays Enter, as prompt_toolkit reads it
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    termios.tcsetattr(keyboard, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, default)


def _mark_pastes(output: Output, wanted: bool) -> None:
    """Ask the terminal for bracketed paste, which prompt_toolkit does for the time of a prompt only."""
    if not is_dumb_terminal():
        (output.enable_bracketed_paste if wanted else output.disable_bracketed_paste)()
        output.flush()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _valid(text: str) -> str:
    """`text`, in which bytes that are not UTF-8 arrive as halves of surrogate pairs."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = len(text[: error.start].encode("utf-8")) + 1
        raise TrineError(
            f"the message is not UTF-8: byte {byte} is 0x{ord(text[error.start]) & 0xFF:02x}. It was not sent; "
            "set the terminal to UTF-8, or type that character again"
        ) from None
    return text


class _FileHistory(FileHistory):
    """A history that fails to be read or written ends no conversation."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        if len(string) > LONGEST_REMEMBERED:
            return
        try:
            super().store_string(string)
        except (OSError, UnicodeEncodeError):
            return


def _history(path: Path | None) -> History:
    """Earlier messages, in a file that only its owner can read."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError as error:
        say(f"messages are not remembered: cannot write {path}: {error.strerror}")
        return InMemoryHistory()
    return _FileHistory(path)
