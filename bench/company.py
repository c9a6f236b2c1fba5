"""Beside other programs: how much longer a side takes, and how much more processor time, than alone on the machine.

As many busy loops as there are cores take their share, so that a side that gives way and loses nothing takes twice its
time alone, and no more processor time. Every round runs each side alone and then beside the loops.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.protocol import available_cores
from bench.records import Contender
from bench.table import Row, compare
from bench.workers import SideError, Workers

TIME_LIMIT, PROCESSOR_LIMIT = 2.3, 1.2
TRAINING = {"mini": (16, 256, 4), "small": (4, 256, 2), "tiny": (2, 32, 4)}
GENERATION = {"prompts": 16, "prompt_tokens": 16, "new_tokens": 192}
Figures = dict[str, list[float]]
"""`seconds` and `processor`, alone and beside the loops, in rounds' order."""


def works(shape: str) -> dict[str, tuple[Contender, ...]]:
    """Of each kind of work the sides, ours first."""
    rows, tokens, steps = TRAINING[shape]
    asked = {"rows": rows, "tokens": tokens, "steps": steps}
    generating = ("ours", "transformers fp32", "transformers bf16")
    training = ("our training", "transformers fp32 training")
    return {
        "generation": tuple(Contender(side, "generate", GENERATION) for side in generating),
        "training": tuple(Contender(side, "train", asked) for side in training),
    }


def measure(shape: str, folder: Path, repetitions: int, threads: int) -> tuple[dict[str, Any], list[Row]]:
    """Every side's figures, and the table's rows: percent of what the side takes alone."""
    figures: dict[str, dict[str, Figures]] = {}
    rows: list[Row] = []
    for work, sides in works(shape).items():
        figures[work] = _rounds(sides, folder, repetitions, threads)
        rows += [*_rows(work, "seconds", TIME_LIMIT, figures[work])]
        rows += [*_rows(work, "processor", PROCESSOR_LIMIT, figures[work])]
    return {"case": "company", "loops": available_cores(), "figures": figures}, rows


def _rounds(sides: tuple[Contender, ...], folder: Path, repetitions: int, threads: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    with Workers(folder, threads) as workers:
        present = [side for side in sides if _answers(workers, side)]
        for _ in range(repetitions):
            for side in present:
                figures = found.setdefault(side.side, {})
                _add(figures, "alone", workers, side)
                with busy_loops(available_cores()):
                    _add(figures, "beside", workers, side)
    return found


def _answers(workers: Workers, side: Contender) -> bool:
    """The warm-up; a peer that is not installed is left out."""
    try:
        workers.run(side)
    except SideError as error:
        sys.stderr.write(f"{side.side}: {error}\n")
        return False
    return True


def _add(figures: Figures, when: str, workers: Workers, side: Contender) -> None:
    before = workers.processor_seconds(side.side)
    seconds = workers.run(side)["seconds"]
    figures.setdefault(f"seconds {when}", []).append(seconds)
    figures.setdefault(f"processor {when}", []).append(workers.processor_seconds(side.side) - before)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """`count` other programs, each busy on a core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _rows(work: str, kind: str, limit: float, figures: dict[str, Figures]) -> list[Row]:
    """Ours against every peer; `ratio` above 1: the peer loses more by the company than we do."""
    shares = {side: _shares(kind, found) for side, found in figures.items()}
    (ours, *peers) = shares
    name = f"company {work}, {'time' if kind == 'seconds' else 'processor time'} beside {available_cores()} busy loops"
    own, (low, high) = compare(figures[ours][f"{kind} beside"], figures[ours][f"{kind} alone"])
    rows = [Row(name, 100 * own, "alone", 100, own, (low, high), f"≤ {limit:g}", own <= limit)]
    for peer in peers:
        theirs, _ = compare(figures[peer][f"{kind} beside"], figures[peer][f"{kind} alone"])
        ratios = [other / mine for mine, other in zip(shares[ours], shares[peer], strict=True)]
        rows.append(Row(name, 100 * own, peer, 100 * theirs, theirs / own, (min(ratios), max(ratios))))
    return rows


def _shares(kind: str, found: Figures) -> list[float]:
    return [beside / alone for beside, alone in zip(found[f"{kind} beside"], found[f"{kind} alone"], strict=True)]
