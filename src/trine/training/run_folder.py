"""A run folder tells its whole story: config.yaml, run.json (versions, seed), metrics.jsonl, checkpoints/, results.

`done.json`, written last, holds a fingerprint of config and inputs: the same command again finds it and does
nothing. Another config in the same folder is refused with the keys that changed.
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

# Neither where the results go, nor the permission to replace them, nor who is told of them changes what they are.
NOT_PART_OF_THE_RESULT = ("out", "overwrite", "push_to_hub", "push_private")
# What may differ when a run is continued: how its work is spread, and what happens to a step that goes wrong.
MAY_CHANGE = ("parallel", "recompute_blocks", "resume", "loop.on_bad_step", "loop.max_skips")
# All that starting over removes; whatever else lies in the folder is not a stage's and stays.
WRITTEN_BY_STAGES = (
    "checkpoints", "metrics.jsonl", "done.json", "seconds.json", "samples.jsonl", "model", "policy", "critic",
    "tokenizer.json", "tokenizer_config.json", "shards", "all.jsonl", "train.jsonl", "held_out_reward.jsonl",
    "held_out.jsonl",
    "adapter", "agent", "film.gif", "bad_step.json", "trackers", "config.yaml", "run.json",
)  # fmt: skip


class RunFolder:
    """The folder of one stage's run. Use `open_run`."""

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
        """Write `done.json`, the last file of a run, and drop the checkpoints nobody needs any more."""
        write_json(self.path / "done.json", results)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def results(self) -> dict[str, Any]:
        """What `finish` was given."""
        return dict(read_json(self.path / "done.json"))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, and tell the trackers."""
        self.step = row.get("step", self.step)
        _append(self.metrics, [row])
        if self.tracking is not None:
            self.tracking.tell(row, self.metrics)

    def log_samples(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append what a model wrote after the step that was logged last, to samples.jsonl."""
        _append(self.samples, [{"step": self.step, **row} for row in rows])

    def write_bad_step(self, about: dict[str, Any], figures: dict[str, float], batch: dict[str, Any]) -> Path:
        """Write bad_step.json, the last step not taken: what was wrong, its figures, and which batch it was."""
        written = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
        write_json(self.path / "bad_step.json", about | {"figures": written, "batch": batch})
        return self.path / "bad_step.json"

    def forget_after(self, step: int) -> None:
        """Drop rows of metrics and samples beyond `step`, which a resumed run is about to write again."""
        self.step = max(step, 0)
        for path in (self.metrics, self.samples):
            if path.exists():
                _mend_last_line(path)
                write_jsonl(path, [row for row in read_jsonl(path) if row.get("step", 0) <= step])


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _mend_last_line(path: Path) -> None:
    """A killed process may have left half a row."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


class SilentRunFolder(RunFolder):
    """The same folder in the processes beside the main one, which alone writes."""

    def finish(self, results: dict[str, Any]) -> None: ...

    def log(self, row: dict[str, Any]) -> None: ...

    def log_samples(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def forget_after(self, step: int) -> None: ...

    def write_bad_step(self, about: dict[str, Any], figures: dict[str, float], batch: dict[str, Any]) -> Path:
        return self.path / "bad_step.json"


@contextmanager
def open_run(config: dict[str, Any], inputs: dict[str, str], world: World = ALONE) -> Iterator[RunFolder]:
    """Lock and prepare the run folder `config["out"]`.

    `inputs` names what else the result depends on (fingerprints of earlier stages). Raises `TrineError` when
    the folder holds a run of another config that has begun, unless `overwrite` is set; and when there are several
    processes and `world` does not know of them.
    """
    path = Path(config["out"])
    if world.size == 1:
        one_process_only(f"{path}: this stage")
    with ExitStack() as stack:
        with world.main_first(f"run folder {path}"):
            run = stack.enter_context(_locked_run(path, config, inputs)) if world.is_main else SilentRunFolder(path)
        yield run


@contextmanager
def _locked_run(path: Path, config: dict[str, Any], inputs: dict[str, str]) -> Iterator[RunFolder]:
    tracking = Tracking((config.get("loop") or {}).get("trackers") or (), config, path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with folder_lock(path):
        described = _described(config)
        identity = {"config": described, "inputs": inputs, "trine": __version__}
        _agree(path, identity, overwrite=bool(config.get("overwrite")))
        if not (path / "run.json").exists():
            write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            write_json(path / "run.json", identity | {"made_with": _versions()})
        try:
            yield RunFolder(path, tracking)
        finally:
            tracking.finish()


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config the result depends on."""
    described = {key: value for key, value in config.items() if key not in NOT_PART_OF_THE_RESULT}
    if "loop" in described:
        described["loop"] = {key: value for key, value in described["loop"].items() if key != "trackers"}
    return described


def _agree(path: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
    record = path / "run.json"
    if not record.exists():
        return
    before = read_json(record)
    identity = json.loads(json.dumps(identity))
    changed = sorted(
        set(_differences("", before["config"], identity["config"]))
        | set(_differences("inputs.", before["inputs"], identity["inputs"]))
        | ({"trine version"} if before["trine"] != identity["trine"] else set())
    )
    changed = [key for key in changed if key not in MAY_CHANGE]
    if not changed:
        return
    if not _begun(path):
        record.unlink()  # refused before it began: nothing is lost, the folder takes the new config
        return
    if not overwrite:
        raise TrineError(
            f"{path} holds a run with another config ({', '.join(changed)} changed); "
            "give another --out, or --overwrite true to start over"
        )
    for name in WRITTEN_BY_STAGES:  # run.json last: stopped midway, start here
        child = path / name
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)


def _begun(path: Path) -> bool:
    """Whether a stage wrote more than what it is about."""
    about = {"config.yaml", "run.json", "seconds.json"}
    return any((path / name).exists() for name in WRITTEN_BY_STAGES if name not in about)


def _differences(prefix: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(f"{prefix}{key}.", old, new)
        elif old != new:
            yield f"{prefix}{key}"


def fingerprint(folder: Path) -> str:
    """Of a finished stage: what it was made from, so that whatever depends on it knows when to be made again.

    A folder that no stage made (an imported model) is known by its files' names and contents.
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
