"""The process of the tests, which decides: it calls the code as it would a module, and compares plain values.

The code runs elsewhere (`code_side.py`), so none of it can reach the tests, what they expect, or what is reported. Each
report carries a secret that the runner made for this run, gave to this process alone, and compares after the tests ran.
"""

import builtins
import json
import linecache
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from typing import Any, BinaryIO

from trine.sandbox.inside.code_side import MODULE, describe
from trine.sandbox.inside.peer import PLAIN_OPERATIONS, Gone, Handle, ObjectHandle, Peer

TESTS_FILE = "<tests>"


def run_tests(given: dict[str, Any], peer: Peer, report: BinaryIO) -> None:
    """Run each of `given["tests"]`, one after the other in one namespace, and report it on a line of its own."""

    def tell(passed: bool, message: str) -> None:
        report.write(json.dumps([given["secret"], passed, message]).encode() + b"\n")
        report.flush()

    try:
        error = peer.receive().get("loaded")
    except (Gone, AttributeError):
        error = "the code ended its process"
    if error is not None:
        return tell(False, f"the code does not load: {error}")
    module = sys.modules[MODULE] = Solution(peer)
    namespace: dict[str, Any] = {"__name__": "tests"}
    for source in given["tests"]:
        message = _run(source, namespace, module)
        tell(message is None, message or "")
        if peer.gone:
            break
    return None


def _run(source: str, namespace: dict[str, Any], module: "Solution") -> str | None:
    """None if the tests pass, else why not. The code's process has to be there still when they are through."""
    linecache.cache[TESTS_FILE] = (len(source), None, source.splitlines(True), TESTS_FILE)
    try:
        compiled = compile(source, TESTS_FILE, "exec")
        wanted = {name for name in _names(compiled) if name not in namespace and not hasattr(builtins, name)}
        namespace.update(module.take(sorted(wanted)))
        exec(compiled, namespace)
        module.take([])
    except Gone as error:
        return f"the code ended its process, or wrote what is no answer: {error}"
    except BaseException as error:
        return _with_source(describe(error), error)
    return None


def _with_source(said: str, error: BaseException) -> str:
    """An AssertionError alone does not say what was asserted."""
    lines, place = "", error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename == TESTS_FILE:
            lines = linecache.getline(TESTS_FILE, place.tb_lineno).strip()
        place = place.tb_next
    return f"{said}: {lines[:300]}" if lines and isinstance(error, AssertionError) else said


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that a piece of code, and the functions in it, look for outside themselves."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


class Solution(types.ModuleType):
    """The code, as a module that tests import from, or whose names they use as if they stood in one file with it.

    A name of Python's own (`sorted`) is the code's only if it is imported: code cannot replace what tests compare with.
    """

    def __init__(self, peer: Peer) -> None:
        super().__init__(MODULE)
        self._peer = peer

    def take(self, names: list[str]) -> dict[str, Any]:
        """What the code has of these names. A module that it has imported is imported here, from Python's library."""
        answer = self._peer.request("names", "module", names)
        if not (isinstance(answer, list) and len(answer) == 2 and all(isinstance(each, dict) for each in answer)):
            raise Gone("what it wrote is no answer")
        values, modules = answer
        taken = {name: value for name, value in values.items() if name in names}
        for name, module in modules.items():
            if name in names and str(module).partition(".")[0] in sys.stdlib_module_names:
                taken[name] = import_module(module)
        return taken

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        taken = self.take([name])
        if name not in taken:
            raise AttributeError(f"the code has no {name}")
        return taken[name]


def tests_peer(connection: Any, *, objects: bool) -> Peer:
    """The end that the tests are at. The code may call functions that they hand it, and go through their iterators."""
    peer = Peer(connection, PLAIN_OPERATIONS, ObjectHandle if objects else Handle)
    peer.write_back = False
    return peer
