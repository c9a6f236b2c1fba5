"""The process of the code under test: it loads the code, then does what the tests' process asks of it.

It never sees a test: only the arguments that its functions are called with. It holds no secret, and whatever it writes
to any descriptor is at most an answer to the question that is open, which is what returning a value is.
"""

import io
import linecache
import os
import random
import socket
import sys
import types
from contextlib import suppress
from typing import Any

from trine.sandbox.inside.peer import OBJECT_OPERATIONS, PLAIN_OPERATIONS, Gone, Handle, ObjectHandle, Peer

MODULE = "solution"
"""What the code is as a module: its own `__name__`, and what tests may import from"""
CODE_FILE = "<code>"


class CodePeer(Peer):
    """The end that owns the code's objects."""

    def __init__(self, connection: socket.socket, code: str, *, objects: bool) -> None:
        operations = (OBJECT_OPERATIONS if objects else PLAIN_OPERATIONS) | {"names": self._names}
        super().__init__(connection, operations, ObjectHandle if objects else Handle)
        self.write_back = objects
        self.module = types.ModuleType(MODULE)
        sys.modules[MODULE] = self.module
        linecache.cache[CODE_FILE] = (len(code), None, code.splitlines(True), CODE_FILE)

    def find(self, name: Any) -> Any:
        """The module's dictionary, the one object that is asked for by a name."""
        return vars(self.module)

    @staticmethod
    def _names(namespace: dict[str, Any], wanted: list[str]) -> list[Any]:
        """Those of the names that the code has: values, and modules, by their own names."""
        found = {name: namespace[name] for name in wanted if name in namespace}
        modules = {name: value.__name__ for name, value in found.items() if isinstance(value, types.ModuleType)}
        return [{name: value for name, value in found.items() if name not in modules}, modules]


def run_code(code: str, connection: socket.socket, *, objects: bool) -> None:
    """Load the code, say what came of it, and answer until the tests' process is done."""
    _forget_trine()
    peer = CodePeer(connection, code, objects=objects)
    try:
        exec(compile(code, CODE_FILE, "exec"), vars(peer.module))
        peer.send({"loaded": None})
    except BaseException as error:
        peer.send({"loaded": describe(error)})
        return
    while True:
        try:
            message = peer.receive()
        except Gone:
            return
        peer.answer(message)
        with suppress(Exception):
            sys.stdout.flush()


def use_descriptors(output: int) -> None:
    """Nothing to read, and one place for both outputs."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)


def make_reproducible() -> None:
    """The same code and tests have the same result each time: no environment, and one state of `random`."""
    os.environ.clear()
    random.seed(0)


def _forget_trine() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "trine"]:
        del sys.modules[name]


def describe(error: BaseException) -> str:
    """An error in one line: its class, its message, and the last line of the code or tests that it went through."""
    lines, place = [], error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.startswith("<"):
            lines.append(f"line {place.tb_lineno} of {place.tb_frame.f_code.co_filename.strip('<>')}")
        place = place.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        lines.append(f"line {error.lineno}")
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)[:500]
    except BaseException:
        message = ""
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{said} ({lines[-1]})" if lines else said
