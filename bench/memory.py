"""Peak memory of a training step: every side in a fresh process, the peak of two steps after a first one.

"Beyond" is the peak without what every way of training has to hold: the imports, fp32 weights and both fp32 moments.
"""

from pathlib import Path
from statistics import median
from typing import Any

from bench.models import SHAPES
from bench.records import Contender
from bench.table import Row, compare
from bench.workers import SideError, Workers

OURS = "our training"
BATCHES = {"small": (4, 512), "mini": (16, 256), "tiny": (2, 32)}
SHIPPED = ("transformers fp32 training", "transformers autocast", "transformers autocast compiled")
TUNED = ("transformers autocast tuned",)
CHECKPOINTING = ("transformers autocast checkpointing",)
COMPARISONS = (
    ("transformers, its leanest", SHIPPED + TUNED, 2.0),
    ("transformers, activations checkpointed", CHECKPOINTING, None),
)
Peaks = dict[str, list[dict[str, float]]]


def measure(shape: str, folder: Path, repetitions: int, threads: int) -> tuple[dict[str, Any], list[Row]]:
    """Peaks in MB of every side, a fresh process for each of `repetitions` rounds, and the table's rows."""
    peaks: Peaks = {side: [] for side in (OURS, *SHIPPED, *TUNED, *CHECKPOINTING)}
    absent: dict[str, str] = {}
    for _ in range(repetitions):
        for side in (side for side in peaks if side not in absent):
            try:
                peaks[side].append(_peak(side, shape, folder, threads))
            except SideError as error:
                absent[side] = str(error)
    present = {side: runs for side, runs in peaks.items() if side not in absent}
    rows_of_shape = rows(f"memory {'x'.join(map(str, BATCHES[shape]))}", present)
    return {"case": "memory", "megabytes": present, "absent": absent}, rows_of_shape


def _peak(side: str, shape: str, folder: Path, threads: int) -> dict[str, float]:
    rows, tokens = BATCHES[shape]
    with Workers(folder, threads) as workers:
        for steps in (1, 2):  # the first creates optimizer moments, and compiles
            asked = {"rows": rows, "tokens": tokens, "steps": steps}
            sample = workers.run(Contender(side, "train", asked))
        if not sample["peak_bytes"]:
            raise SideError("this system does not tell a process's peak memory")
        imports = workers.hellos[side]["import_bytes"]
    beyond = sample["peak_bytes"] - imports - 3 * 4 * SHAPES[shape].parameter_count
    figures = {"peak": sample["peak_bytes"], "imports": imports, "beyond": beyond}
    return {name: size / 1e6 for name, size in figures.items()}


def rows(name: str, peaks: Peaks) -> list[Row]:
    """Ours against the smallest peak of each comparison, above the baseline and in total; ratio: theirs / ours."""
    if OURS not in peaks:
        return []
    table = []
    for label, sides, target in COMPARISONS:
        present = [side for side in sides if side in peaks]
        if not present:
            continue
        leanest = min(present, key=lambda side: median(_figures(peaks[side], "beyond")))
        for kind, aim in (("beyond", target), ("peak", None)):
            ours, theirs = _figures(peaks[OURS], kind), _figures(peaks[leanest], kind)
            ratio, spread = compare(theirs, ours)
            words, reached = ("", None) if aim is None else (f"≥ {aim:g}", ratio >= aim)
            case = f"{name}, {'beyond weights, moments, imports' if kind == 'beyond' else 'total'}"
            table.append(Row(case, median(ours), label, median(theirs), ratio, spread, words, reached, leanest))
    return table


def _figures(runs: list[dict[str, float]], kind: str) -> list[float]:
    return [run[kind] for run in runs]
