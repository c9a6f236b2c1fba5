"""Run code that nobody has read against tests, and say whether it passes: `trine.run_tests`.

Code and tests are in two processes. The code's has no file, network, environment or process of this machine in sight,
and never sees a test; that of the tests calls the code's functions across a socket and compares plain values. So a
program cannot pass by leaving early, by objects equal to everything, by changing Python, or by looking up what is
expected: there is nothing in its process to change or to look at. docs/sandbox.md says what is not protected against.
"""

import atexit
import hmac
import json
import os
import secrets
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from trine.config.loading import validated
from trine.config.sandbox import Limits
from trine.runtime.errors import TrineError
from trine.sandbox.zygote_process import close_all, forget, zygote

Outcome = Literal["passed", "failed", "time", "cpu", "output", "crashed"]
_STRENGTH = ("none", "landlock", "namespaces")
STRONGEST = "namespaces"


@dataclass(frozen=True)
class Verdict:
    """What came of one run of tests."""

    passed: bool
    """every test passed"""
    outcome: Outcome
    message: str
    """why not, in one line; empty if it passed"""
    tests: tuple[bool, ...]
    """for each of the tests given, whether it passed; those that were not reached did not"""
    output: str
    """what the code wrote to standard output and error"""
    cpu_seconds: float
    memory: int
    """bytes of memory of the code's process at its peak"""
    isolation: str

    def __bool__(self) -> bool:
        return self.passed


def run_tests(code: str, tests: str | Sequence[str], limits: Limits | Mapping[str, Any] | None = None) -> Verdict:
    """Whether `code`, a Python module's text, passes `tests`, which call it::

        verdict = trine.run_tests("def double(x): return 2 * x", "assert double(4) == 8")
        verdict.passed, verdict.message

    `tests` is Python too: names that it neither defines nor finds in Python are the code's, as are those that it
    imports from `solution`; it passes if it raises nothing. Given a list, each is run in turn and counted by itself.
    Raises `TrineError` where the kernel offers less isolation than `limits.isolation`.
    """
    chosen = _limits(limits)
    sources = [tests] if isinstance(tests, str) or not isinstance(tests, Sequence) else list(tests)
    if not sources or not all(isinstance(source, str) for source in (code, *sources)):
        raise TrineError("run_tests: code is a string, and tests a string or a list of at least one")
    secret = secrets.token_hex(16)
    given = json.dumps({"secret": secret, "tests": sources}).encode()
    said, report = _run(code.encode("utf-8", "surrogatepass"), given, chosen)
    return _verdict(said, secret, len(sources), report, chosen)


def run_tests_batch(
    pairs: Iterable[tuple[str, str | Sequence[str]]],
    limits: Limits | Mapping[str, Any] | None = None,
    *,
    workers: int = 0,
) -> list[Verdict]:
    """`run_tests` of many (code, tests), `workers` at a time (0: as many as there are cores), in their order::

    answers, tests = ["def f(): return 1", "def f(): return 2"], ["assert f() == 1"] * 2
    rewards = [float(verdict.passed) for verdict in trine.run_tests_batch(zip(answers, tests, strict=True))]
    """
    chosen = _limits(limits)
    with ThreadPoolExecutor(workers or _cores()) as pool:
        return list(pool.map(lambda pair: run_tests(pair[0], pair[1], chosen), pairs))


def isolation_offered() -> str:
    """The strongest isolation that this kernel offers: `namespaces`, `landlock` or `none`."""
    return zygote(STRONGEST).isolation


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limits(limits: Limits | Mapping[str, Any] | None) -> Limits:
    if isinstance(limits, Limits):
        return limits
    return validated(Limits, dict(limits or {}), "run_tests limits")


def _run(code: bytes, given: bytes, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    """One run, on a new process if the one that was there has been killed."""
    settings = {
        "seconds": limits.seconds, "cpu_seconds": limits.cpu_seconds, "memory": limits.memory,
        "output_bytes": limits.output, "file_bytes": limits.files, "processes": limits.processes,
        "objects": limits.objects,
    }  # fmt: skip
    for _ in range(2):
        process = zygote(STRONGEST)
        _check(process.isolation, limits)
        try:
            said, report = process.run(code, given, settings)
        except OSError:
            forget(process)
            continue
        return said, report | {"isolation": process.isolation}
    raise TrineError("the sandbox's process was killed twice; is the machine out of memory?")


def _check(offered: str, limits: Limits) -> None:
    """Raise `TrineError` if the kernel offers too little."""
    if _STRENGTH.index(offered) < _STRENGTH.index(limits.isolation):
        raise TrineError(
            f"run_tests: limits.isolation is {limits.isolation}, and this system offers {offered}: code would be run "
            "that could read your files or use the network. Run it on Linux 5.14 or later, in a container that allows "
            "user namespaces or Landlock; isolation: none runs it with limits alone, for code you would run yourself"
        )
    if limits.processes > 1 and offered != "namespaces":
        raise TrineError(
            f"run_tests: limits.processes is {limits.processes}, which needs isolation namespaces, and this system "
            f"offers {offered}: leave processes at 1"
        )


def _verdict(said: bytes, secret: str, count: int, report: dict[str, Any], limits: Limits) -> Verdict:
    lines = [json.loads(line) for line in said.splitlines()]
    if any(not hmac.compare_digest(str(line[0]), secret) for line in lines):
        lines = []
    tests = [bool(passed) for _, passed, _ in lines]
    outcome, message = _reason(report, limits)
    if outcome is None:
        messages = [message for _, passed, message in lines if not passed]
        if len(tests) == count and all(tests):
            outcome = "passed"
        else:
            outcome = "failed"
            message = messages[0] if messages else "the process of the tests ended before they were through"
    return Verdict(
        passed=outcome == "passed", outcome=outcome, message=message,
        tests=tuple(tests + [False] * (count - len(tests))), output=report.get("output", ""),
        cpu_seconds=report.get("cpu_seconds", 0.0), memory=report.get("memory", 0), isolation=report["isolation"],
    )  # fmt: skip


def _reason(report: dict[str, Any], limits: Limits) -> tuple[Outcome | None, str]:
    """Why the run ended, if it was not that the tests were through."""
    ended, number = report["ended"], report.get("signal", 0)
    if ended == "time":
        return "time", f"not done after {limits.seconds:g} s"
    if ended == "output":
        return "output", f"it wrote more than {limits.output:,} bytes"
    if ended == "lost":
        return "crashed", "the process that watched it was killed"
    if number == signal.SIGKILL and report["cpu_seconds"] >= limits.cpu_seconds / 2:
        return "cpu", f"not done after {limits.cpu_seconds} s of processor time"
    if number:
        return "crashed", f"its process ended with {signal.Signals(number).name}"
    return None, ""


# The zygote ends by itself when this process does, but its folder stays.
atexit.register(close_all)
