"""Whether a command begins a run in its folder, goes on with the one that is there, or is refused.

What makes it the same run is said in `run_record.py`. The advice of a refusal keeps the work that is there: another
folder or the settings it has; what `overwrite` would delete is listed last.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trine.config.base import StageConfig
from trine.config.registry import STAGES, stage_of
from trine.config.resumption import Resumption
from trine.config.stage import Stage
from trine.config.yaml_text import written
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_text
from trine.runtime.logs import read_log
from trine.runtime.progress import say
from trine.training import run_record
from trine.training.checkpoints import check_checkpoints, list_checkpoints, step_of
from trine.training.run_record import Change, RunRecord, changes, read_record

# What a run of any stage may write besides its own outputs. run.json last: it names the stage whose outputs lie here.
EVERY_RUN = (
    "checkpoints", "metrics.jsonl", "metrics.jsonl.damaged", "samples.jsonl", "samples.jsonl.damaged", "done.json",
    "seconds.json", "bad_step.json", "trackers", "config.yaml", "run.json",
)  # fmt: skip
# Of these, what is there before the stage itself has done anything.
WRITTEN_AT_THE_START = ("config.yaml", "run.json", "seconds.json")


def admit(config: StageConfig, now: RunRecord) -> None:
    """Begin the run in `config.out`, or go on with the one that is there if it is the same.

    Of two runs, the one that has not begun gives way: nothing is lost.
    """
    path = config.out
    owner = _owner(path) or stage_of(config)
    begun = any(_traces(path, name) for name in (*owner.outputs, *EVERY_RUN) if name not in WRITTEN_AT_THE_START)
    if not begun:
        return _begin(path, now)
    problem = _problem(config, now, owner)
    if problem is None:
        return
    if not config.overwrite:
        raise problem
    say(f"{path}: --overwrite deletes {_holdings(path, owner)}", style="yellow")
    for name in ("done.json", *owner.outputs, *EVERY_RUN):
        for child in _traces(path, name):
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    _begin(path, now)


def _owner(path: Path) -> Stage | None:
    """The stage whose run lies in `path`, if its record says so."""
    try:
        record = read_json(path / run_record.NAME)
    except TrineError:
        return None
    return STAGES.get(str(record.get("stage"))) if isinstance(record, dict) else None


def _traces(path: Path, name: str) -> list[Path]:
    """The output `name` of a run, and what a run that was stopped while writing it has left."""
    return [child for child in (path / name, *path.glob(f".{name}.*")) if child.exists()]


def _begin(path: Path, now: RunRecord) -> None:
    """Write config.yaml and run.json."""
    write_text(path / "config.yaml", f"# Paths are relative to this folder.\n{written(now.config)}")
    now.write(path)


def _problem(config: StageConfig, now: RunRecord, owner: Stage) -> TrineError | None:
    """Why this config cannot go on with the run in `config.out`; None if it can, and then all is ready for it to."""
    path = config.out
    if not (path / run_record.NAME).exists():
        raise TrineError(
            f"{path} holds {_holdings(path, owner)} and no {run_record.NAME} that says what made them, so that nothing "
            "there is touched; give another --out, or restore it"
        )
    try:
        before = read_record(path)
    except TrineError as error:
        return TrineError(f"{error} (--overwrite true would delete {_holdings(path, owner)})")
    if before.stage != now.stage:
        return _refusal(path, owner, f"{path} holds a run of the stage {before.stage}; give another --out")
    found = changes(before, now, type(config))
    refused = "".join(f"\n  {change}" for change in found if change.refused)
    if refused:
        words = f"{path} holds a run with other settings:{refused}\nGive another --out, or the settings of that run"
        return _refusal(path, owner, words)
    _go_on(path, before, now, found)
    return None


def _refusal(path: Path, owner: Stage, words: str) -> TrineError:
    return TrineError(f"{words}. (--overwrite true would delete {_holdings(path, owner)})")


def _go_on(path: Path, before: RunRecord, now: RunRecord, found: list[Change]) -> None:
    """Tell and record what is different from now on; a finished run that is extended is unfinished again."""
    extended = [change for change in found if change.extends]
    done, steps = path / "done.json", [step_of(place) for place in list_checkpoints(path / "checkpoints")]
    finished = _results(path) if done.exists() else None
    if finished is not None and not extended:
        return _tell_finished(path, found)
    if finished is not None:
        _check_extensible(path, extended)
    if not found:
        return
    if steps:
        _tell_changes(path, found)
        entry = {"after_step": max(steps), "changed": {each.key: [each.before, each.now] for each in found}}
        before.continued.append(entry if finished is None else entry | {"finished_before": finished})
    done.unlink(missing_ok=True)  # before the record: killed in between, the run is the shorter one, unfinished
    _begin(path, replace(now, continued=before.continued))


def _results(path: Path) -> dict[str, Any]:
    """What a finished run wrote; raises `TrineError` where it is damaged."""
    done = path / "done.json"
    try:
        results = read_json(done)
    except TrineError as error:
        raise TrineError(f"{error}; {_MEND_RESULTS}") from error
    if not isinstance(results, dict):
        raise TrineError(f"{done} is damaged: no JSON object; {_MEND_RESULTS}")
    return results


_MEND_RESULTS = (
    "restore it, or move it elsewhere and give the same command again, which finishes the run anew from its last "
    "checkpoint"
)


def _check_extensible(path: Path, extended: list[Change]) -> None:
    """Raises `TrineError` where a finished run has no checkpoint to go on from."""
    if not list_checkpoints(path / "checkpoints"):
        raise TrineError(
            f"{path} is finished and keeps no checkpoint (loop.keep_last, loop.save_every) from which it could be "
            f"extended ({_listed(extended)}); give another --out"
        )
    check_checkpoints(path / "checkpoints")


def _tell_finished(path: Path, found: list[Change]) -> None:
    unused = [change for change in found if change.kind is Resumption.MAY_CHANGE]
    if unused:
        say(f"{path} is finished: nothing is left to do for {_listed(unused)}")


def _tell_changes(path: Path, found: list[Change]) -> None:
    extended = [change for change in found if change.extends]
    if extended:
        say(f"{path} is extended: {_listed(extended)}; from here on the learning rate is that of a run of this length")
    differing = [change for change in found if change.kind is Resumption.CHANGES_BITS]
    if differing:
        say(f"{path} continues with {_listed(differing)}: not bit for bit as without that change", style="yellow")


def _listed(found: Sequence[Change]) -> str:
    return ", ".join(map(str, found))


def _holdings(path: Path, owner: Stage) -> str:
    """What a run left in `path`, with sizes, for a person to weigh."""
    steps = [step_of(place) for place in list_checkpoints(path / "checkpoints")]
    parts = [f"{len(steps)} checkpoint{'s' * (len(steps) != 1)} up to step {max(steps)}"] if steps else []
    logged = [line.row.get("step", 0) for line in read_log(path / "metrics.jsonl") if line.row is not None]
    parts += [f"the metrics of {max(logged)} steps"] if logged else []
    for name in dict.fromkeys((*owner.outputs, "done.json", *EVERY_RUN)):
        if name not in ("checkpoints", "metrics.jsonl", *WRITTEN_AT_THE_START):
            parts += [_sized(place) for place in _traces(path, name)]
    return ", ".join(parts) or "nothing but its record"


def _sized(place: Path) -> str:
    files = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{place.name}{'/' if place.is_dir() else ''} ({size:.1f} MB)"
