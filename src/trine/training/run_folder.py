"""A run folder records one run of a stage: config.yaml, run.json (stage, config, inputs, versions), metrics.jsonl,
checkpoints/, the stage's outputs, and done.json with the results, written last.

    with open_run(config, {"corpus": corpus.fingerprint}) as folder:
        if folder.finished:
            return folder.path
        ...
        folder.finish(results)

The same command again finds done.json and does nothing. Another config in the same folder is refused, naming the keys
that changed; with `overwrite` it removes what the earlier run wrote, and nothing else, and starts over.
"""

import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from trine import __version__
from trine.config.base import StageConfig
from trine.config.extras import check_extras
from trine.config.registry import STAGES, stage_of
from trine.config.stage import Stage
from trine.runtime.distributed import ALONE, World
from trine.runtime.errors import TrineError
from trine.runtime.files import (
    disk_errors,
    read_json,
    read_jsonl,
    sha256_of,
    sha256_of_file,
    write_json,
    write_jsonl,
    write_text,
)
from trine.runtime.launch import one_process_only
from trine.runtime.lock import folder_lock
from trine.training.tracking import Tracking

# Where the results go, whether they may be replaced and where they are uploaded do not change what they are.
NOT_PART_OF_THE_RESULT = ("out", "overwrite", "push_to_hub", "push_private")
# What may differ when a run is resumed: how its work is distributed, and what a non-finite step or a spike leads to.
MAY_CHANGE = ("parallel", "recompute_blocks", "resume", "loop.on_bad_step", "loop.max_skips")
# What a run of any stage may write besides its own outputs. run.json last: it names the stage whose outputs lie here.
EVERY_RUN = (
    "checkpoints", "metrics.jsonl", "samples.jsonl", "done.json", "seconds.json", "bad_step.json", "trackers",
    "config.yaml", "run.json",
)  # fmt: skip
# Of these, what is there before the stage itself has done anything.
WRITTEN_AT_THE_START = ("config.yaml", "run.json", "seconds.json")


class RunFolder:
    """The folder of one stage's run, locked by this process. `open_run` makes it."""

    def __init__(self, path: Path, tracking: Tracking | None = None) -> None:
        self.path = path
        self.tracking = tracking
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.step = 0

    @property
    def finished(self) -> bool:
        return (self.path / "done.json").exists()

    def finish(self, results: dict[str, Any]) -> None:
        """Write `done.json`, the last file of a run, and remove the checkpoints."""
        write_json(self.path / "done.json", results)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def results(self) -> dict[str, Any]:
        """What `finish` was given."""
        return dict(read_json(self.path / "done.json"))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl and send it to the trackers."""
        self.step = row.get("step", self.step)
        _append(self.metrics, [row])
        if self.tracking is not None:
            self.tracking.tell(row, self.metrics)

    def log_samples(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append samples of the model to samples.jsonl, under the step that was logged last."""
        _append(self.samples, [{"step": self.step, **row} for row in rows])

    def write_bad_step(self, about: dict[str, Any], figures: dict[str, float], batch: dict[str, Any]) -> Path:
        """Write bad_step.json, about the latest step that was refused: the reason, its figures, and its batch."""
        written = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
        write_json(self.path / "bad_step.json", about | {"figures": written, "batch": batch})
        return self.path / "bad_step.json"

    def forget_after(self, step: int) -> None:
        """Remove the rows of metrics and samples after `step`: a resumed run is about to write them again."""
        self.step = max(step, 0)
        for path in (self.metrics, self.samples):
            if path.exists():
                _drop_incomplete_line(path)
                write_jsonl(path, [row for row in read_jsonl(path) if row.get("step", 0) <= step])


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _drop_incomplete_line(path: Path) -> None:
    """A killed process may have left half a row at the end."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


class SilentRunFolder(RunFolder):
    """The same folder in the other processes of a distributed run: only the main process writes."""

    def finish(self, results: dict[str, Any]) -> None: ...

    def log(self, row: dict[str, Any]) -> None: ...

    def log_samples(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def forget_after(self, step: int) -> None: ...

    def write_bad_step(self, about: dict[str, Any], figures: dict[str, float], batch: dict[str, Any]) -> Path:
        return self.path / "bad_step.json"


@contextmanager
def open_run(config: StageConfig, inputs: dict[str, str], world: World = ALONE) -> Iterator[RunFolder]:
    """Lock and prepare the run folder `config.out`.

    `inputs` are fingerprints of what else the result depends on, such as the model of an earlier stage. Raises
    `TrineError` when the folder holds a run with another config that has begun, unless `overwrite` is set; and when
    there are several processes and no `world` is given.
    """
    if world.size == 1:
        one_process_only(f"{config.out}: this stage")
    with ExitStack() as stack:
        with world.main_first(f"run folder {config.out}"):
            locked = stack.enter_context(_locked_run(config, inputs)) if world.is_main else None
        yield locked or SilentRunFolder(config.out)


@contextmanager
def _locked_run(config: StageConfig, inputs: dict[str, str]) -> Iterator[RunFolder]:
    path, stage, values = config.out, stage_of(config), config.model_dump(mode="json")
    if not (path / "done.json").exists():
        check_extras(config)
    tracking = Tracking((values.get("loop") or {}).get("trackers") or (), values, path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with folder_lock(path):
        identity = {"stage": stage.name, "config": _described(values), "inputs": inputs, "trine": __version__}
        _make_way(path, stage, identity, overwrite=config.overwrite)
        if not (path / "run.json").exists():
            write_text(path / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
            write_json(path / "run.json", identity | {"made_with": _versions()})
        try:
            yield RunFolder(path, tracking)
        finally:
            tracking.finish()


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that the result depends on."""
    described = {key: value for key, value in config.items() if key not in NOT_PART_OF_THE_RESULT}
    if "loop" in described:
        described["loop"] = {key: value for key, value in described["loop"].items() if key != "trackers"}
    return described


def _make_way(path: Path, stage: Stage, identity: dict[str, Any], *, overwrite: bool) -> None:
    """Nothing where `path` holds no run or the same one; else remove it if that is allowed, or refuse."""
    record = path / "run.json"
    if not record.exists():
        return
    before = read_json(record)
    changed = _changed(before, json.loads(json.dumps(identity)))
    if not changed:
        return
    owner = STAGES.get(before.get("stage", ""), stage)
    written = [*owner.outputs, *EVERY_RUN]
    if not any((path / name).exists() for name in written if name not in WRITTEN_AT_THE_START):
        record.unlink()  # refused before it began: nothing is lost, the folder takes the new config
        return
    if not overwrite:
        another = (
            f"of the stage {owner.name}" if owner != stage else f"with another config ({', '.join(changed)} changed)"
        )
        raise TrineError(f"{path} holds a run {another}; give another --out, or --overwrite true to start over")
    for name in written:
        child = path / name
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of what differs between two run.json: keys of config and inputs, the stage, the version."""
    config = _differences("", before["config"], now["config"])
    inputs = _differences("inputs.", before["inputs"], now["inputs"])
    found = {*config, *inputs}
    found |= {"stage"} if before.get("stage", now["stage"]) != now["stage"] else set()
    found |= {"trine version"} if before["trine"] != now["trine"] else set()
    return [key for key in sorted(found) if key not in MAY_CHANGE]


def _differences(prefix: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(f"{prefix}{key}.", old, new)
        elif old != new:
            yield f"{prefix}{key}"


def fingerprint(folder: Path) -> str:
    """The hash of what a stage's folder was made from: config, inputs and version.

    A folder that no stage made, such as an imported model, is hashed by the names and contents of its files.
    """
    folder = Path(folder)
    for place in (folder, folder.parent):
        if (place / "run.json").exists():
            record = read_json(place / "run.json")
            return sha256_of(json.dumps([record["config"], record["inputs"], record["trine"]], sort_keys=True))
    if folder.is_file():
        return sha256_of_file(folder)
    if not folder.exists():
        raise TrineError(f"{folder} does not exist; run the stage that makes it first")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return sha256_of(*(f"{path.name}:{sha256_of_file(path)}" for path in files))


def _versions() -> dict[str, str]:
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "platform": platform.platform()}
    try:
        root = Path(__file__).parent
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return versions
    return versions | ({"commit": run.stdout.strip()} if run.returncode == 0 else {})
