"""A pseudo-terminal with a program in it, driven as a person would: what is typed goes in, what is shown comes out."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

PATIENCE = 60.0
# Makes standard input the terminal that Ctrl-C is typed at, then becomes the program.
LEAD = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
PASTE_BEGINS, PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"
WHERE_IS_THE_CURSOR, AT_THE_TOP = b"\x1b[6n", b"\x1b[1;1R"


class Terminal:
    """Runs `python *arguments` as the session leader of a terminal of some width."""

    def __init__(
        self, *arguments: str, environment: dict[str, str], columns: int = 80, stdout: Path | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        output = slave if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT)
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", LEAD, sys.executable, *arguments],
            stdin=slave, stdout=output, stderr=slave, start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"} | environment,
        )  # fmt: skip
        os.close(slave)
        self.shown, self._answered = b"", 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.master)

    def type(self, data: bytes | str) -> None:
        """Type keys, reading what is shown meanwhile, so that neither side waits for the other."""
        left = data.encode() if isinstance(data, str) else data
        while left:
            left = left[os.write(self.master, left[:1000]) :]
            self._read(0.0)
        self._answer()

    def paste(self, text: str) -> None:
        self.type(PASTE_BEGINS + text.replace("\n", "\r").encode() + PASTE_ENDS)

    def wait_for(self, words: str, *, count: int = 1) -> None:
        """Read until `words` were shown `count` times."""
        end = time.monotonic() + PATIENCE
        while self.shown.count(words.encode()) < count:
            assert time.monotonic() < end, f"{words!r} was not shown: {self.text[-2000:]}"
            assert self._read(0.1), f"{words!r} was not shown before the end: {self.text[-2000:]}"
            self._answer()

    def wait_for_more(self, count: int) -> None:
        """Read until `count` more bytes were shown."""
        goal, end = len(self.shown) + count, time.monotonic() + PATIENCE
        while len(self.shown) < goal:
            assert self._read(0.1) and time.monotonic() < end, f"no more was shown: {self.text[-2000:]}"

    def ended(self) -> int:
        """Read to the end; the exit code."""
        while self._read(0.1):
            pass
        return self.process.wait(timeout=PATIENCE)

    @property
    def text(self) -> str:
        return self.shown.decode("utf-8", "replace")

    def _read(self, patience: float) -> bool:
        """Take what is there; False once the program has left its terminal."""
        if not select.select([self.master], [], [], patience)[0]:
            return True
        try:
            new = os.read(self.master, 65536)
        except OSError:  # what Linux says at the end of a terminal
            return False
        self.shown += new
        return bool(new)

    def _answer(self) -> None:
        """Say where the cursor is, as often as was asked, but not in the middle of what is typed."""
        asked = self.shown.count(WHERE_IS_THE_CURSOR)
        os.write(self.master, AT_THE_TOP * (asked - self._answered))
        self._answered = asked
