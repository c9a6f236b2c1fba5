"""What a runner of the race writes, and when: wall seconds without evaluation, tokens, validation loss; JSONL."""

import json
import math
import time
from pathlib import Path
from typing import Any


class RaceLog:
    """The clock of a run and its file. The clock stands still while the run is evaluated.

    The file's first line says what is run; `agree` of two runs' first lines means the same race.
    """

    def __init__(self, path: Path, about: dict[str, Any], bytes_per_token: float) -> None:
        self.path, self.bytes_per_token = path, bytes_per_token
        self._seconds, self._started = 0.0, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about) + "\n")

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._seconds += time.perf_counter() - self._started

    def write(self, step: int, tokens: int, loss: float) -> None:
        """`loss` in nats a token; called while the clock stands still."""
        bits = loss / math.log(2) / self.bytes_per_token
        row = {"step": step, "seconds": self._seconds, "tokens": tokens, "loss": loss, "bits_per_byte": bits}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"step {step}: {self._seconds:.0f} s, {tokens / 1e6:.2f}M tokens, loss {loss:.4f}", flush=True)


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """What was run, and its evaluations."""
    about, *rows = (json.loads(line) for line in path.read_text().splitlines())
    return about, rows


def seconds_to_reach(rows: list[dict[str, float]], loss: float) -> float | None:
    """When a run was first seen at `loss` or below it; None when it never was."""
    return next((row["seconds"] for row in rows if row["loss"] <= loss), None)
