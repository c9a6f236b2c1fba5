"""The runner's side of the zygote: it is started once, and handed the descriptors of each run."""

import json
import os
import select
import shutil
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import trine
from trine.runtime.child_process import end_child, start_child
from trine.runtime.errors import TrineError

STARTING_SECONDS = 60.0
GRACE_SECONDS = 30.0
"""for a supervisor to end a run whose time is over, on a busy machine"""


class Zygote:
    """The process that runs are forked from, and its isolation, which is at most the one that is asked for."""

    def __init__(self, isolation: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="trine-sandbox-")
        Path(self.folder).chmod(0o755)  # root's runs go on as nobody
        self.socket, theirs = socket.socketpair()
        source = str(Path(trine.__path__[0]).parent)
        with theirs:
            self.child = start_child(
                "trine.sandbox.inside.zygote", str(theirs.fileno()), self.folder, isolation,
                output=-3, options=("-P", "-S", "-s", "-B"), folder=self.folder, descriptors=(theirs.fileno(),),
                # One hash seed, so that sets have one order and a reward is the same each time.
                environment={"PYTHONPATH": source, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            )  # fmt: skip
        self.lock = threading.Lock()
        self.owner = os.getpid()
        self.socket.settimeout(STARTING_SECONDS)
        try:
            self.isolation = self.socket.recv(64).decode().strip()
        except OSError:
            self.isolation = ""
        if not self.isolation:
            self.close()
            raise TrineError("the sandbox's process did not start; is this Python complete, and is there memory left?")

    def run(self, code: bytes, tests: bytes, limits: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """What the tests' process reported, and what the supervisor did. Raises TrineError if neither does in time."""
        with ExitStack() as stack:
            code_file, tests_file = (stack.enter_context(_file(content)) for content in (code, tests))
            verdict, verdict_end = _pipe(stack)
            report, report_end = _pipe(stack)
            given = [code_file.fileno(), tests_file.fileno(), verdict_end.fileno(), report_end.fileno()]
            with self.lock:
                socket.send_fds(self.socket, [json.dumps(limits).encode()], given)
                if self.socket.recv(1) != b".":
                    raise OSError("the zygote has ended")
            verdict_end.close()
            report_end.close()
            deadline = time.monotonic() + limits["seconds"] + GRACE_SECONDS
            said = _read(verdict.fileno(), deadline)
            return said, json.loads(_read(report.fileno(), deadline) or b'{"ended": "lost"}')

    def close(self) -> None:
        """End the process, its runs with it, and remove its folder."""
        self.socket.close()
        if self.owner == os.getpid():
            end_child(self.child)
            shutil.rmtree(self.folder, ignore_errors=True)


def _file(content: bytes) -> Any:
    """A file without a name, at its beginning."""
    file = open(os.memfd_create("x"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content)
    file.seek(0)
    return file


def _pipe(stack: ExitStack) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    return stack.enter_context(open(reading, "rb")), stack.enter_context(open(writing, "wb"))


def _read(descriptor: int, deadline: float) -> bytes:
    """All until the other side closes it."""
    poll, read = select.poll(), b""
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TrineError("the sandbox did not end a run in time; is the machine out of memory?")
        piece = os.read(descriptor, 65536)
        if not piece:
            return read
        read += piece


_zygotes: dict[str, Zygote] = {}
_starting = threading.Lock()


def zygote(isolation: str) -> Zygote:
    """This process's own, started when it is first asked for; a fork of this process starts one for itself."""
    with _starting:
        found = _zygotes.get(isolation)
        if found is None or found.owner != os.getpid() or found.child.poll() is not None:
            if found is not None:
                found.close()
            found = _zygotes[isolation] = Zygote(isolation)
        return found


def forget(process: Zygote) -> None:
    """Close one that does not answer, so that the next that is asked for is a new one."""
    with _starting:
        for isolation in [name for name, known in _zygotes.items() if known is process]:
            del _zygotes[isolation]
            process.close()


def close_all() -> None:
    """End the processes that runs are forked from."""
    while _zygotes:
        with suppress(OSError):
            _zygotes.popitem()[1].close()
