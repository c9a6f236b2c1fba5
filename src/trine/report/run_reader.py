"""What a recipe left on disk, read back: recipe.json and the run folders of its finished stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trine.config.loading import read_yaml
from trine.config.registry import STAGES
from trine.config.values import resolved
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.runtime.logs import log_rows

Series = tuple[list[float], list[float]]


@dataclass(frozen=True)
class FinishedStage:
    """One finished stage: its config, what it made (`done.json`) and its metric rows."""

    name: str
    stage: str
    seconds: float | None
    config: dict[str, Any]
    made_with: dict[str, str]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    folder: Path = Path()

    def by_step(self, key: str) -> Series:
        """Steps and values of the rows that hold `key`."""
        rows = [row for row in self.metrics if _is_number(row.get(key)) and "step" in row]
        return [float(row["step"]) for row in rows], [float(row[key]) for row in rows]

    def by_iteration(self, key: str) -> Series:
        """Iterations, counted from 1, and the mean of `key` over each iteration's steps.

        Only the first step of an iteration names it; what is known once per iteration stands there alone.
        """
        groups: dict[float, list[float]] = {}
        iteration = 0.0
        for row in self.metrics:
            iteration = float(row.get("iteration", iteration))
            if _is_number(row.get(key)):
                groups.setdefault(iteration + 1, []).append(float(row[key]))
        return list(groups), [sum(values) / len(values) for values in groups.values()]


@dataclass(frozen=True)
class RecipeRun:
    """A recipe's title, seed and minutes, and its finished stages in order."""

    title: str
    seed: int
    minutes: float | None
    stages: list[FinishedStage]

    def of_stage(self, stage: str) -> list[FinishedStage]:
        return [run for run in self.stages if run.stage == stage]

    def made_at(self, path: Any, makes: str) -> FinishedStage | None:
        """The run whose folder a config names as `path`, if its stage makes this (`config/stages.py`)."""
        makers = [run for run in self.stages if run.stage in STAGES and STAGES[run.stage].makes == makes]
        parts = list(reversed(Path(str(path)).parts))  # a run folder, or something in one
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
    """Read `out`; stages that are missing or unfinished are left out.

    Without a recipe, `out` may be the run folder of one stage, or hold several.
    """
    described = read_json(out / "recipe.json") if (out / "recipe.json").exists() else _runs_in(out)
    if not isinstance(described, dict) or not isinstance(described.get("stages"), list):
        raise TrineError(f"{out / 'recipe.json'} names no stages; `trine run` writes it")
    stages = [_read_stage(out / entry["name"], entry) for entry in described["stages"]]
    return RecipeRun(
        str(described.get("title", out.name)),
        int(described.get("seed", 0)),
        described.get("minutes"),
        [run for run in stages if run is not None],
    )


def _runs_in(out: Path) -> dict[str, Any]:
    """What a recipe of the finished runs in `out` would say."""
    folders = [out, *sorted(path for path in out.iterdir() if path.is_dir())] if out.is_dir() else []
    runs = [(path, stage) for path in folders if (path / "done.json").exists() and (stage := _stage_of(path))]
    if not runs:
        raise TrineError(f"{out} holds neither recipe.json, which `trine run` writes, nor a finished run of a stage")
    seeds = [int(_config(path, _record(path)).get("seed", 0)) for path, _ in runs]
    stages = [
        {
            "name": path.relative_to(out).as_posix(),
            "stage": stage,
            "seconds": sum(float(row.get("seconds", 0.0)) for row in _rows(path / "metrics.jsonl")),
        }
        for path, stage in runs
    ]
    return {"title": f"Runs in {out.name}", "seed": min(seeds), "stages": stages}


def _stage_of(folder: Path) -> str:
    """The stage that run.json names; empty where there is none, as in folders that earlier versions wrote."""
    return str(_record(folder).get("stage", ""))


def _record(folder: Path) -> dict[str, Any]:
    return _object(folder / "run.json") if (folder / "run.json").exists() else {}


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `TrineError` where it is another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise TrineError(f"{path} is damaged: not a JSON object; restore it from a copy")
    return value


def _config(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The run's settings: of its record, or in folders that earlier versions wrote of config.yaml."""
    if "format" in record and isinstance(record.get("config"), dict):
        return dict(record["config"])
    place = folder / "config.yaml"
    return dict(resolved(read_yaml(place))) if place.exists() else {}


def _read_stage(folder: Path, entry: dict[str, Any]) -> FinishedStage | None:
    if not (folder / "done.json").exists():
        return None
    record = _record(folder)
    return FinishedStage(
        name=str(entry["name"]),
        stage=str(entry["stage"]),
        seconds=entry.get("seconds"),
        config=_config(folder, record),
        made_with=_made_with(record),
        results=_object(folder / "done.json"),
        metrics=_rows(folder / "metrics.jsonl"),
        samples=_rows(folder / "samples.jsonl"),
        folder=folder,
    )


def _made_with(record: dict[str, Any]) -> dict[str, str]:
    """Versions and machine."""
    parts = [record.get(part) for part in ("made_with", "ran_on")]
    return {key: str(value) for part in parts if isinstance(part, dict) for key, value in part.items()}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a damaged line costs no report."""
    return log_rows(path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
