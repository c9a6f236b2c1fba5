"""Start-up time: `import` and `--help`, each in a fresh process."""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from bench.table import Row, compare
from bench.workers import clean_environment

LIMIT_MS = 300
OURS = {"import trine": "import trine", "trine --help": "from trine.cli.main import main; main(['--help'])"}
PEERS = {
    "torch": "import torch",
    "transformers": "from transformers import AutoModelForCausalLM",
    "trl": "from trl import GRPOTrainer",
}


def measure(repetitions: int, with_peers: bool) -> tuple[dict[str, Any], list[Row]]:
    """Milliseconds of every available command, measured in turns, and the rows of the table."""
    peers = {code: code for name, code in PEERS.items() if with_peers and find_spec(name)}
    samples: dict[str, list[float]] = {name: [] for name in OURS | peers}
    for _ in range(repetitions + 1):
        for name, code in (OURS | peers).items():
            samples[name].append(_milliseconds(code))
    samples = {name: turns[1:] for name, turns in samples.items()}  # drop the first round, which fills the disk cache
    rows = []
    for name in OURS:
        ours = median(samples[name])
        rows.append(Row(f"startup {name}", ours, target=f"< {LIMIT_MS} ms", reached=ours < LIMIT_MS))
        for peer in peers:
            ratio, spread = compare(samples[peer], samples[name])
            rows.append(Row(f"startup {name}", ours, peer, median(samples[peer]), ratio, spread))
    return {"case": "startup", "milliseconds": samples}, rows


def _milliseconds(code: str) -> float:
    command = [sys.executable, "-c", code]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=clean_environment(), cwd=Path.home())
    return (time.perf_counter() - started) * 1000
