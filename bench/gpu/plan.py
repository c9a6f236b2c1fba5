"""The rows in order of worth, each in a process with a limit of its own, within one budget of seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUDGET = 480.0
ROOT = Path(__file__).parents[2]
LAST_WORDS = 2000  # characters of what a failed row said


@dataclass(frozen=True)
class Row:
    """`limit`: the seconds after which it is stopped; `needs`: with fewer left it is not begun."""

    name: str
    limit: float
    needs: float
    about: str


ROWS = (
    Row("decoding", 110, 40, "captured decoding beside transformers, small at B = 64 and 1"),
    Row("training", 170, 75, "124M at a context of 1024, bf16 and compiled, beside nanoGPT"),
    Row("tests", 120, 30, "the tests marked gpu"),
    Row("ppo", 75, 25, "one PPO iteration, small, 64 x (8 + 36) tokens, 4 epochs"),
)
TARGETS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("decoding", ("B=64", "ratio_to_transformers"), 5.0),
    ("training", ("matmul_share",), 0.45),
    ("training", ("ratio_to_nanogpt",), 1.2),
)
"""(row, where its figure is, at least)"""

Result = dict[str, Any]


def run_rows(
    rows: Sequence[Row], run: Callable[[Row, float], Result], write: Callable[[list[Result]], None],
    budget: float = BUDGET, clock: Callable[[], float] = time.monotonic,
) -> list[Result]:  # fmt: skip
    """Run what still fits; `write` sees all results after each row, so that nothing measured is lost.

    `run` is given a row and the seconds it may take, and returns its `status` with figures or an error.
    """
    results: list[Result] = []
    started = clock()
    for row in rows:
        left = budget - (clock() - started)
        if left < row.needs:
            result: Result = {
                "status": "skipped",
                "error": f"{left:.0f} s of {budget:.0f} are left; needs {row.needs:g}",
            }
        else:
            begun = clock()
            result = run(row, min(row.limit, left)) | {"seconds": round(clock() - begun, 1)}
        results.append({"row": row.name, "about": row.about, **result})
        write(results)
    return results


def run_in_process(row: Row, seconds: float, options: Sequence[str]) -> Result:
    """`python -m bench.gpu.row` with everything it started; stopped when its time is up."""
    command = [sys.executable, "-m", "bench.gpu.row", row.name, *options]
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # compilers that it started too
        said, _ = process.communicate()
        return {"status": "stopped", "error": f"not done after {seconds:.0f} s; {said[-LAST_WORDS:]}"}
    return result_in(said, process.returncode)


def result_in(said: str, code: int) -> Result:
    """The last line that is a JSON object, where the row came to its end."""
    if code == 0:
        for line in reversed(said.splitlines()):
            if line.startswith("{"):
                found: Result = json.loads(line)
                return found
    return {"status": "failed", "error": f"exit code {code}; {said[-LAST_WORDS:]}"}


def comparisons(results: Sequence[Result]) -> list[tuple[str, float, float]]:
    """(figure, its value, its target) of every target whose row was measured."""
    found = []
    by_name = {result["row"]: result.get("figures") for result in results}
    for row, place, target in TARGETS:
        value: Any = by_name.get(row)
        for key in place:
            value = (value or {}).get(key)  # a tiny run has other batches
        if value:
            found.append((" ".join((row, *place)), float(value), target))
    return found
