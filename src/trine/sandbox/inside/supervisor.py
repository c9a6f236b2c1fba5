"""One run: two processes are started, watched, and ended with all that came of them.

The supervisor is a fork of `zygote.py`'s process and knows neither code nor tests: it passes their descriptors on, of
which each of the two processes is left its own. It ends both when the tests are through, the time is, or too much
was written, and then says so.
"""

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trine.sandbox.inside import isolation, kernel
from trine.sandbox.inside.code_side import make_reproducible, run_code, use_descriptors
from trine.sandbox.inside.isolation import Isolation
from trine.sandbox.inside.test_side import run_tests, tests_peer

TESTS_MEMORY = 2 * 2**30
"""Bytes of address space for the process of the tests, which holds what the code returns"""
CODE_IS_GONE = 3
"""Exit status of the process of the tests"""


@dataclass(frozen=True)
class Descriptors:
    """Files with the code and with the tests; pipes for the tests' report and for the supervisor's."""

    code: int
    tests: int
    verdict: int
    report: int


def supervise(descriptors: Descriptors, limits: dict[str, Any], isolated: Isolation) -> NoReturn:
    """Run the tests of one request, report, and end this process."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        kernel.call("prctl", kernel.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        kernel.call("prctl", kernel.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair()
    alive, held = os.pipe()
    output, writing = os.pipe()
    tester = _fork(
        lambda: _be_tester(descriptors, ours, held, limits, isolated),
        keep=_of_tester(descriptors, ours, held, isolated),
    )
    os.close(held)
    os.close(descriptors.verdict)
    os.close(descriptors.tests)
    if isolated.name == "namespaces":
        isolation.make_own_folder(limits["file_bytes"])
    code = _fork(
        lambda: _be_code(descriptors.code, theirs, writing, limits, isolated),
        keep={descriptors.code, theirs.fileno(), writing, isolated.rules},
    )
    theirs.close()
    ours.close()
    os.close(writing)
    ended, written = _watch(alive, output, limits)
    if ended == "done":  # the pipe of a process that ends closes a moment before its status can be had
        _wait(tester)
    if _end(tester).status == CODE_IS_GONE << 8:
        _wait(code)
    used = _end(code)
    if isolated.name == "none":
        _end_orphans(code)
    report = {"ended": ended, "output": written.decode("utf-8", "replace"), **used.report()}
    with suppress(BrokenPipeError), open(descriptors.report, "w") as file:
        json.dump(report, file)
    os._exit(0)


def _of_tester(descriptors: Descriptors, ours: socket.socket, held: int, isolated: Isolation) -> set[int]:
    return {descriptors.tests, descriptors.verdict, ours.fileno(), held, isolated.rules}


def _fork(body: Callable[[], None], keep: set[int]) -> int:
    """A child that has no descriptor but those of `keep`, and ends when `body` does."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        # Numbers are few: those of this process came one after another.
        for number in range(3, 256):
            if number not in keep:
                with suppress(OSError):
                    os.close(number)
        body()
    except BaseException:
        os._exit(1)
    os._exit(0)


def _be_tester(
    descriptors: Descriptors, connection: socket.socket, held: int, limits: dict[str, Any], isolated: Isolation
) -> None:
    """Nothing that tests print is kept: the output is the code's."""
    use_descriptors(os.open(os.devnull, os.O_WRONLY))
    make_reproducible()
    isolation.confine(isolated, limits | {"memory": max(limits["memory"], TESTS_MEMORY)}, processes=1)
    with open(descriptors.tests, "rb") as file:
        given = json.load(file)
    peer = tests_peer(connection, objects=limits["objects"])
    with open(descriptors.verdict, "wb") as report:
        run_tests(given, peer, report)
    if peer.gone:
        os._exit(CODE_IS_GONE)


def _be_code(file: int, connection: socket.socket, output: int, limits: dict[str, Any], isolated: Isolation) -> None:
    use_descriptors(output)
    os.close(output)
    make_reproducible()
    if isolated.name == "namespaces":
        os.chdir(isolation.FOLDER)
    isolation.confine(isolated, limits, processes=limits["processes"])
    with open(file, encoding="utf-8", errors="surrogatepass") as text:
        code = text.read()
    run_code(code, connection, objects=limits["objects"])


def _watch(alive: int, output: int, limits: dict[str, Any]) -> tuple[str, bytes]:
    """Wait until the tests' process ends; why this one stopped to wait, and what the code wrote."""
    deadline = time.monotonic() + limits["seconds"]
    written, most = bytearray(), limits["output_bytes"]
    poll = select.poll()
    poll.register(alive, select.POLLIN)
    poll.register(output, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            if descriptor == alive:
                written += _rest(output, most)
                return "done", bytes(written[:most])
            read = os.read(output, 65536)
            written += read
            if not read:
                poll.unregister(output)
            if len(written) > most:
                return "output", bytes(written[:most])
    return "time", bytes(written)


def _rest(output: int, most: int) -> bytes:
    """What is in the pipe already."""
    os.set_blocking(output, False)
    try:
        return os.read(output, most + 1)
    except BlockingIOError:
        return b""


@dataclass(frozen=True)
class Ended:
    """A process that was ended: its status, 0 if it had to be killed, and what it used."""

    status: int
    usage: resource.struct_rusage

    def report(self) -> dict[str, Any]:
        """The signal that had ended it before, and what it used."""
        return {
            "signal": os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0,
            "cpu_seconds": self.usage.ru_utime + self.usage.ru_stime,
            "memory": self.usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }


def _wait(child: int) -> None:
    """Give a process that has closed its connection the time to end, so that its status says why."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)


def _end(child: int) -> Ended:
    """Kill a process, unless it has ended by itself."""
    done, status, usage = os.wait4(child, os.WNOHANG)
    if done:
        return Ended(status, usage)
    os.kill(child, signal.SIGKILL)
    return Ended(0, os.wait4(child, 0)[2])


def _end_orphans(session: int) -> None:
    """Where no namespace ends them: the child's group, and, on Linux, whatever has become a child of this process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    while sys.platform == "linux":
        with suppress(OSError):
            for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(number), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
