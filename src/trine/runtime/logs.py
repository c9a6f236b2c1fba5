"""Logs that a run appends rows to (metrics.jsonl, samples.jsonl), read although a disk or an editor has damaged a line.

A row is a JSON object on a line of its own; its `step`, if it has one, is a number. Any other line is passed over and
told: figures are no reason to lose a run. Half a row at the very end is what a killed process leaves, and no damage.
"""

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trine.runtime.files import disk_errors, read_errors, write_bytes
from trine.runtime.json_values import parse_json
from trine.runtime.progress import say


@dataclass(frozen=True)
class LogLine:
    """One line: its number from 1, its bytes, and its row; None where it is damaged."""

    number: int
    data: bytes
    row: dict[str, Any] | None


def read_log(path: Path) -> list[LogLine]:
    """The lines of a log, without blank ones and half a row at its end; none where there is no file."""
    with read_errors(path):
        data = path.read_bytes() if path.exists() else b""
    pieces = data.removeprefix(BOM_UTF8).split(b"\n")
    lines = [LogLine(number, piece, _row(piece)) for number, piece in enumerate(pieces, 1) if piece.strip()]
    cut_off = bool(lines) and lines[-1].number == len(pieces) and lines[-1].row is None
    return lines[:-1] if cut_off else lines


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    step = row.get("step", 0) if isinstance(row, dict) else None
    return row if isinstance(step, int | float) and math.isfinite(step) else None


def append_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def log_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; damaged lines are passed over and told."""
    lines = read_log(path)
    damaged = [line for line in lines if line.row is None]
    if damaged:
        say(f"{describe_damage(path, damaged)}; passed over", style="yellow")
    return [line.row for line in lines if line.row is not None]


def describe_damage(path: Path, damaged: list[LogLine]) -> str:
    """Which lines are damaged."""
    if len(damaged) == 1:
        return f"{path}:{damaged[0].number} is damaged: not a row of the log"
    return f"{path}: {len(damaged)} lines are damaged, the first of them line {damaged[0].number}: not rows of the log"


def keep_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Rewrite a log with the rows that are wanted, each as it stands; returns them.

    Damaged lines are told and kept aside, in a file of the log's name and `.damaged`.
    """
    lines = read_log(path)
    damaged = [line for line in lines if line.row is None]
    if damaged:
        aside = path.with_name(f"{path.name}.damaged")
        before = aside.read_bytes() if aside.exists() else b""
        write_bytes(aside, before + b"".join(line.data + b"\n" for line in damaged))
        say(f"{describe_damage(path, damaged)}; moved to {aside.name}", style="yellow")
    kept = [line for line in lines if line.row is not None and wanted(line.row)]
    if path.exists():
        write_bytes(path, b"".join(line.data.rstrip(b"\r") + b"\n" for line in kept))
    return [line.row for line in kept if line.row is not None]
