"""What a recipe left on disk, read back: recipe.json and the run folders of its finished stages.

Disks fail and people edit: what cannot be read of a run folder is left out, and a note says which file and why. Only
without recipe.json, or with one that names no stages, there is nothing to report on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from trine.config.registry import STAGES
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json

MAX_NUMBER = 1e300
Series = tuple[list[float], list[float]]


@dataclass(frozen=True)
class FinishedStage:
    """One finished stage: its config, what it made (`done.json`), its metric rows, samples, training rows and followed
    samples."""

    name: str
    stage: str
    seconds: float | None
    config: dict[str, Any]
    made_with: dict[str, str]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    folder: Path = Path()
    shown_rows: list[dict[str, Any]] = field(default_factory=list)
    followed: list[dict[str, Any]] = field(default_factory=list)

    def by_step(self, key: str) -> Series:
        """Steps and values of the rows that hold `key`."""
        rows = [row for row in self.metrics if is_number(row.get(key)) and is_number(row.get("step"))]
        return [float(row["step"]) for row in rows], [float(row[key]) for row in rows]

    def by_iteration(self, key: str) -> Series:
        """Iterations, counted from 1, and the mean of `key` over each iteration's steps.

        Only the first step of an iteration names it; what is known once per iteration stands there alone.
        """
        groups: dict[float, list[float]] = {}
        iteration = 0.0
        for row in self.metrics:
            iteration = float(row["iteration"]) if is_number(row.get("iteration")) else iteration
            if is_number(row.get(key)):
                groups.setdefault(iteration + 1, []).append(float(row[key]))
        return list(groups), [sum(values) / len(values) for values in groups.values()]


@dataclass(frozen=True)
class RecipeRun:
    """A recipe's title, seed, minutes and plan, its finished stages in order, and notes on what cannot be read."""

    title: str
    seed: int
    minutes: float | None
    stages: list[FinishedStage]
    notes: list[str] = field(default_factory=list)
    plan: str | None = None

    def of_stage(self, stage: str) -> list[FinishedStage]:
        return [run for run in self.stages if run.stage == stage]

    def made_at(self, path: Any, makes: str) -> FinishedStage | None:
        """The run whose folder a config names as `path`, if its stage makes this (`config/stages.py`)."""
        makers = [run for run in self.stages if run.stage in STAGES and STAGES[run.stage].makes == makes]
        parts = reversed(Path(str(path)).parts)  # of a run folder, or of something in one
        return next((run for part in parts for run in makers if run.name == part), None)

    def made_with(self) -> dict[str, str]:
        """Versions, machine and commit; where stages differ, every value once."""
        values: dict[str, list[str]] = {}
        for run in self.stages:
            for key, value in run.made_with.items():
                known = values.setdefault(key, [])
                if str(value) not in known:
                    known.append(str(value))
        return {key: ", ".join(known) for key, known in values.items()}


def read_recipe_run(out: Path) -> RecipeRun:
    """Read `out`; stages that are missing, unfinished or unreadable are left out, the last with a note.

    Without a recipe, `out` may be the run folder of one stage, or hold several. Beside a recipe's runs, others that are
    in its folder are read too, such as a preview that was made after it.
    """
    reader, recipe = RunReader(), out / "recipe.json"
    described = read_json(recipe) if recipe.exists() else _runs_in(out, reader)
    if not isinstance(described, dict) or not isinstance(described.get("stages"), list):
        raise TrineError(f"{recipe} names no stages; `trine run` writes it")
    entries = [_entry(entry, recipe) for entry in described["stages"]]
    named = {entry["name"] for entry in entries}
    entries += [entry for entry in _finished_in(out, RunReader()) if entry["name"] not in named | {"."}]
    stages = [_read_stage(out / entry["name"], entry, reader) for entry in entries]
    seed = described.get("seed", 0)
    return RecipeRun(
        str(described.get("title", out.name)),
        int(seed) if is_number(seed) else 0,
        _number(described.get("minutes")),
        [run for run in stages if run is not None],
        reader.notes,
        plan if isinstance(plan := described.get("plan"), str) else None,
    )


def _entry(entry: Any, recipe: Path) -> dict[str, Any]:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "stage")):
        raise TrineError(f"{recipe}: every entry of `stages` needs a name and a stage, found {entry!r:.60}")
    return entry


class RunReader:
    """Reads files of run folders. What cannot be read is left out, and `notes` say of which file and why."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def json(self, path: Path) -> dict[str, Any] | None:
        """The JSON object in `path`; None where there is no such file, or it is damaged."""
        try:
            value = read_json(path) if path.exists() else None
        except TrineError as error:
            self.notes.append(str(error))
            return None
        return self._mapping(value, path)

    def yaml(self, path: Path) -> dict[str, Any]:
        """The mapping in `path`; empty where there is none."""
        try:
            value = yaml.safe_load(path.read_bytes()) if path.exists() else {}
        except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
            self.notes.append(f"{path} is not readable YAML: {str(error).splitlines()[0]}")
            return {}
        return self._mapping(value, path) or {}

    def _mapping(self, value: Any, path: Path) -> dict[str, Any] | None:
        if value is None or isinstance(value, dict):
            return value
        self.notes.append(f"{path} holds no mapping of names to values, but {value!r:.40}")
        return None

    def rows(self, path: Path) -> list[dict[str, Any]]:
        """The rows of a JSONL file that can be read."""
        return list(self.each_row(path))

    def first_row(self, path: Path) -> dict[str, Any] | None:
        return next(iter(islice(self.each_row(path), 1)), None)

    def each_row(self, path: Path) -> Iterator[dict[str, Any]]:
        broken: list[int] = []
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    row = _row(line)
                    if row is not None:
                        yield row
                    elif line.strip():
                        broken.append(number)
        except FileNotFoundError:
            return
        except OSError as error:
            self.notes.append(f"{path} cannot be read: {error.strerror}")
        if broken:
            lines = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines, the first of them {broken[0]}"
            self.notes.append(f"{path}: no JSON objects, and left out: {lines}")


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _runs_in(out: Path, reader: RunReader) -> dict[str, Any]:
    """What a recipe of the finished runs in `out` would say."""
    stages = _finished_in(out, reader)
    if not stages:
        damaged = "".join(f"; {note}" for note in reader.notes)
        raise TrineError(
            f"{out} holds neither recipe.json, which `trine run` writes, nor a finished run of a stage{damaged}"
        )
    seeds = [_number(RunReader().yaml(out / entry["name"] / "config.yaml").get("seed")) or 0 for entry in stages]
    return {"title": f"Runs in {out.name}", "seed": min(seeds), "stages": stages}


def _finished_in(out: Path, reader: RunReader) -> list[dict[str, Any]]:
    """Name and stage of every finished run in `out`, or of `out` itself."""
    folders = [out, *sorted(path for path in out.iterdir() if path.is_dir())] if out.is_dir() else []
    runs = []
    for path in filter(_done, folders):
        # The stage is named by run.json; folders that earlier versions wrote have none.
        record = RunReader()
        stage = (record.json(path / "run.json") or {}).get("stage")
        if isinstance(stage, str) and stage:
            runs.append({"name": path.relative_to(out).as_posix(), "stage": stage})
        else:
            reader.notes += record.notes
    return runs


def _done(folder: Path) -> bool:
    return (folder / "done.json").exists()


def _read_stage(folder: Path, entry: dict[str, Any], reader: RunReader) -> FinishedStage | None:
    results = reader.json(folder / "done.json") if _done(folder) else None
    if results is None:
        return None
    metrics = reader.rows(folder / "metrics.jsonl")
    trained = sum(_number(row.get("seconds")) or 0.0 for row in metrics)
    record = reader.json(folder / "run.json") or {}
    parts = [part for part in (record.get("made_with"), record.get("ran_on")) if isinstance(part, dict)]
    return FinishedStage(
        name=entry["name"],
        stage=entry["stage"],
        seconds=_number(entry.get("seconds", trained)),
        config=reader.yaml(folder / "config.yaml"),
        made_with={key: str(value) for part in parts for key, value in part.items()},
        results=results,
        metrics=metrics,
        samples=reader.rows(folder / "samples.jsonl"),
        folder=folder,
        shown_rows=reader.rows(folder / "rows.jsonl"),
        followed=reader.rows(folder / "followed.jsonl"),
    )


def is_number(value: Any) -> bool:
    """Whether `value` is a number that can be counted with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None
