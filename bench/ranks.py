"""Two gloo ranks of one thread beside one process of two threads: the same step over the same global batch.

No speed-up is possible, because both use the same cores; measured is the loss. Every turn is a fresh run.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.records import AS_OUR_COMMANDS
from bench.table import Row, compare
from bench.workers import SideError, clean_environment

MAX_LOSS_DIFFERENCE = 0.05  # nats, between one process and several

RANKS = 2
TARGET = 0.85
BATCHES = {"small": (32, 256, 8, 1), "mini": (16, 256, 1, 8), "tiny": (4, 32, 2, 2)}
"""Rows and tokens of the global batch, micro-batches a process takes it in, timed steps.

small: 8 micro-batches of 2 x 256 a rank, of 4 x 256 (the batch of the `training` group) in one process.
"""
Sample = dict[str, Any]


def measure(shape: str, folder: Path, repetitions: int, threads: int) -> tuple[dict[str, Any], list[Row]]:
    """Both ways in turns; `threads` are those of one process, 2 by default."""
    threads = threads or RANKS
    samples: dict[str, list[Sample]] = {"two ranks": [], "one process": []}
    for _ in range(repetitions):
        for name, runs in samples.items():
            runs.append(_run(shape, folder, RANKS if name == "two ranks" else 1, threads))
            _check(samples)
    rows, tokens, accumulate, _ = BATCHES[shape]
    case = f"ranks {rows} x {tokens}, {accumulate} micro-batches"
    return {"case": case, "samples": samples}, [row(case, samples)]


def row(case: str, samples: dict[str, list[Sample]]) -> Row:
    """Two ranks as a share of one process."""
    two, one = ([run["tokens"] / run["seconds"] for run in runs] for runs in samples.values())
    ratio, spread = compare(two, one)
    label = "one process of 2 threads"
    return Row(case, median(two), label, median(one), ratio, spread, f"≥ {TARGET:g}", ratio >= TARGET)


def _run(shape: str, folder: Path, ranks: int, threads: int) -> Sample:
    rows, tokens, accumulate, steps = BATCHES[shape]
    own = max(1, threads // ranks)
    with tempfile.TemporaryDirectory(prefix="trine-ranks-") as place:
        out, log = Path(place) / "result.json", Path(place) / "log"
        asked = {"folder": str(folder), "out": str(out), "threads": own, "tokens": tokens, "steps": steps}
        asked |= {"accumulate": accumulate, "rows": rows // (ranks * accumulate)}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        command = [sys.executable, *launcher, "-m", "bench.side_ranks", json.dumps(asked)]
        environment = clean_environment() | AS_OUR_COMMANDS | {"OMP_NUM_THREADS": str(own)}
        with log.open("wb") as file:
            done = subprocess.run(
                command, env=environment, cwd=Path(__file__).parent.parent, stdout=file, stderr=file, check=False
            )
        if done.returncode or not out.exists():
            words = log.read_text(errors="replace").strip().splitlines()
            raise SideError(f"{ranks} ranks ended with {done.returncode}; {os.linesep.join(words[-5:])}")
        return dict(json.loads(out.read_text()))


def _check(samples: dict[str, list[Sample]]) -> None:
    """All runs saw the same batches: the same losses to bf16's rounding."""
    losses = [run["losses"] for runs in samples.values() for run in runs]
    furthest = max(max(step) - min(step) for step in zip(*losses, strict=True))
    if furthest > MAX_LOSS_DIFFERENCE:
        raise SideError(f"ranks: the losses are {furthest:.3f} nats apart: {losses}")
