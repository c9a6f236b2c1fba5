"""Share of time that pretraining steps wait for batches, as logged by `trine pretrain`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from bench.table import Row
from bench.workers import SideError, clean_environment
from trine.runtime.files import read_jsonl

LIMIT = 0.01
STEPS, ROW_TOKENS, BATCH_ROWS = 60, 256, 16


def measure(folder: Path, threads: int) -> tuple[dict[str, Any], list[Row]]:
    """Pretrain *mini* on packed rows of the standard library; `folder` holds a tokenizer."""
    config = {
        "corpus": {"standard_library": True, "held_out_share": 0.02}, "tokenizer": str(folder),
        "model": {"family": "gpt2", "layers": 6, "width": 384, "heads": 6, "context": ROW_TOKENS},
        "tokens": STEPS * ROW_TOKENS * BATCH_ROWS, "row_tokens": ROW_TOKENS, "batch_size": BATCH_ROWS,
        "micro_batch_size": BATCH_ROWS, "loop": {"save_every": 0}, "hardware": {"threads": threads},
    }  # fmt: skip
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "trine", "pretrain", "--config", str(folder / "pretrain.yaml")]
    done = subprocess.run(
        [*command, "--out", str(folder / "run")], env=clean_environment(), cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SideError(f"trine pretrain ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    steps = [row for row in read_jsonl(folder / "run" / "metrics.jsonl") if "loader_share" in row]
    return {"case": "loader", "steps": steps}, [row(steps)]


def row(steps: list[dict[str, float]]) -> Row:
    """The share of the whole training time, the first step's wait included, in percent."""
    seconds = sum(step["seconds"] for step in steps)
    waited = sum(step["loader_share"] * step["seconds"] for step in steps)
    share = waited / seconds
    note = f"{waited:.3f} s of the {seconds:.1f} s of {len(steps)} steps, {share:.3%}"
    return Row("loader, waiting for batches", 100 * share, target="< 1 %", reached=share < LIMIT, note=note)
