"""What a person types, pastes and recalls at a terminal reaches the conversation whole; so does what a pipe brings."""

import io
import json
import stat
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.terminal import Terminal
from trine.cli.chat_input import LineInput, history_path
from trine.cli.standard_input import input_text
from trine.runtime.errors import TrineError

# Prints every message as JSON, or why it is none, as `trine chat` would take it.
REPEATER = """
import json, sys
from trine.cli.chat_input import open_input
from trine.runtime.errors import TrineError
with open_input(history="forget" not in sys.argv) as source:
    print("ready", flush=True)
    while True:
        try:
            message = source.read()
        except TrineError as error:
            message = "error: " + str(error)
        if message is None:
            break
        print("got " + json.dumps(message), flush=True)
print("left")
"""


def repeater(state: Path, *arguments: str, term: str = "xterm-256color", columns: int = 80) -> Terminal:
    environment = {"XDG_STATE_HOME": str(state), "TERM": term}
    return Terminal("-c", REPEATER, *arguments, environment=environment, columns=columns)


def got(terminal: Terminal) -> list[str]:
    lines = terminal.text.replace("\r", "").split("\n")
    starts = [line[line.index("got ") + 4 :] for line in lines if "got " in line]
    return [json.loads(each) for each in starts if each.startswith('"')]


def test_long_lines_pastes_and_wide_characters_arrive_whole(tmp_path: Path) -> None:
    """5.8: a line of any length, pasted lines as one message, Chinese in a narrow terminal, and what is no UTF-8."""
    long, pasted = "word " * 900 + "end", "def f():\n    return '\\n'\n\nprint(f())"
    with repeater(tmp_path, columns=30) as terminal:
        terminal.wait_for("ready")
        terminal.type(long + "\r")
        terminal.wait_for("got ")
        terminal.paste(pasted)
        terminal.type("\r")
        terminal.wait_for("got ", count=2)
        terminal.type("first\x1b\rsecond\r")  # Alt-Enter
        terminal.type("你好" * 40 + "\r")
        terminal.type(b"caf\xe9\r")
        terminal.wait_for("got ", count=5)
        terminal.type("left over")
        terminal.wait_for("left over")
        terminal.type("\x03")
        terminal.wait_for("/exit leaves")
        terminal.type("again\r\x04")
        assert terminal.ended() == 0
    assert got(terminal) == [
        long, pasted, "first\nsecond", "你好" * 40,
        "error: the message is not UTF-8: byte 4 is 0xe9. It was not sent; set the terminal to UTF-8, or type that "
        "character again", "", "again",
    ]  # fmt: skip


def test_what_is_typed_while_an_answer_is_written_is_whole_too(tmp_path: Path) -> None:
    """5.8: between two prompts the terminal's own 4,095 bytes hold neither, and a paste is still one message."""
    script = REPEATER.replace(
        "message = source.read()", "print('busy', flush=True); time.sleep(0.3); message = source.read()"
    )
    with Terminal("-c", "import time" + script, environment={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.wait_for("busy")
        terminal.type("x" * 5000 + "\r")
        terminal.wait_for("busy", count=2)
        terminal.paste("one\ntwo")
        terminal.type("\r")
        terminal.wait_for("busy", count=3)
        terminal.type("first\x1b\rsecond\r")  # Alt-Enter
        terminal.wait_for("got ", count=3)
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert got(terminal) == ["x" * 5000, "one\ntwo", "first\nsecond"]


def test_messages_are_remembered_for_their_owner_alone(tmp_path: Path) -> None:
    """5.8: the history lasts, is private, and is not written where it is not wanted."""
    for arguments, typed in (((), "a question\r\x04"), ((), "\x1b[A\r\x04"), (("forget",), "\x1b[A\rsecret\r\x04")):
        with repeater(tmp_path, *arguments) as terminal:
            terminal.wait_for("ready")
            terminal.type(typed)
            assert terminal.ended() == 0
        assert got(terminal)[0] == ("" if arguments else "a question")
    path = tmp_path / "trine" / "chat_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "a question" in path.read_text() and "secret" not in path.read_text()


def test_a_history_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "trine").write_text("a file where the folder should be")
    with repeater(tmp_path) as terminal:
        terminal.wait_for("ready")
        terminal.type("a question\r\x04")
        assert terminal.ended() == 0
    assert "messages are not remembered" in terminal.text and got(terminal) == ["a question"]


@pytest.mark.parametrize("where", ["ready", "busy"])
def test_a_terminal_is_given_back_however_the_conversation_ends(tmp_path: Path, where: str) -> None:
    """5.8: echo and line editing are as before, after SIGTERM at the prompt or during an answer too."""
    pause = "print('busy', flush=True); time.sleep(1); message = source.read()"
    script = "import time" + (REPEATER if where == "ready" else REPEATER.replace("message = source.read()", pause))
    with Terminal("-c", script, environment={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        before = termios.tcgetattr(terminal.master)
        terminal.wait_for(where)
        if where == "ready":
            terminal.wait_for("\x1b[6n")  # the prompt asks where it stands
        terminal.process.terminate()
        assert terminal.ended() == 143
        assert termios.tcgetattr(terminal.master) == before


def test_a_dumb_terminal_gets_no_escape_codes(tmp_path: Path) -> None:
    """5.8: TERM=dumb."""
    with repeater(tmp_path, term="dumb") as terminal:
        terminal.wait_for("ready")
        terminal.type("x" * 5000 + "\r")
        terminal.type("你好\r\x04")
        assert terminal.ended() == 0
    assert got(terminal) == ["x" * 5000, "你好"] and "\x1b" not in terminal.text


def test_the_history_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "trine" / "chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the XDG specification says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path() == tmp_path / ".local" / "state" / "trine" / "chat_history"


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield lambda data: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=8))
def test_every_line_of_a_pipe_is_a_message_or_an_error_with_its_place(lines: list[bytes]) -> None:
    """3.6: whatever the bytes are, what is UTF-8 arrives, and the rest is named by line and byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"".join(line + b"\n" for line in lines))))
        source = LineInput()
        for number, line in enumerate(lines, 1):
            try:
                expected = line.decode()
            except UnicodeDecodeError as error:
                with pytest.raises(TrineError, match=f"line {number}: not UTF-8 at byte {error.start + 1} "):
                    source.read()
            else:
                assert source.read() == expected.removeprefix("\ufeff").rstrip("\r").replace("\\n", "\n")
        assert source.read() is None


@given(st.binary(min_size=1, max_size=40))
def test_a_prompt_from_standard_input_is_the_text_or_an_error_with_its_place(data: bytes) -> None:
    """3.6: `generate --prompt -` gives the bytes' text unchanged, or names the first that is not UTF-8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        try:
            expected = data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            line, byte = data[: error.start].count(b"\n") + 1, error.start - data.rfind(b"\n", 0, error.start)
            with pytest.raises(
                TrineError, match=rf"line {line}: not UTF-8 at byte {byte} \(0x{data[error.start]:02x}\)"
            ):
                input_text()
        else:
            if expected:
                assert input_text() == expected


def test_a_line_that_a_terminal_may_have_cut_is_refused(monkeypatch: pytest.MonkeyPatch, feed: Any) -> None:
    """5.8: where the terminal edits the line itself, 4,095 bytes are no longer taken for all of it."""
    feed(b"short\n" + b"x" * 4095 + b"\n")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(TrineError, match=r"line 2 has 4,095 bytes, at which a terminal cuts"):
        input_text()


@pytest.mark.parametrize("stdin", [None, b""])
def test_an_empty_standard_input_is_named(monkeypatch: pytest.MonkeyPatch, feed: Any, stdin: bytes | None) -> None:
    """5.8: nothing at standard input."""
    if stdin is None:
        monkeypatch.setattr("sys.stdin", None)
    else:
        feed(stdin)
    with pytest.raises(TrineError, match=r"standard input is (empty|closed)"):
        input_text()
