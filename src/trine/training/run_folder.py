"""A run folder records one run of a stage: config.yaml, run.json (stage, config, inputs, versions), metrics.jsonl,
checkpoints/, the stage's outputs, and done.json with the results, written last.

    with open_run(config, {"corpus": corpus.fingerprint}) as folder:
        if folder.finished:
            return folder.path
        ...
        folder.finish(results)

The same command again finds done.json and does nothing. What is the same is said in `run_record.py`: the content of the
inputs and the settings that change results, wherever the folder lies. Of the other settings some may change when a run
is continued, and a larger budget extends it, finished or not, from its last checkpoint. Anything else is refused,
naming what changed (`continuing.py`); with `overwrite` it removes what the earlier run wrote, and nothing else, and
starts over.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trine.config.base import StageConfig
from trine.config.extras import check_extras
from trine.runtime.device import Hardware
from trine.runtime.distributed import ALONE, World
from trine.runtime.files import disk_errors, read_json, write_json
from trine.runtime.launch import one_process_only
from trine.runtime.lock import folder_lock
from trine.runtime.logs import append_rows, keep_rows
from trine.runtime.progress import say
from trine.training.checkpoints import list_checkpoints, remove_checkpoints, step_of
from trine.training.continuing import admit
from trine.training.run_record import record_of
from trine.training.tracking import Tracking


class RunFolder:
    """The folder of one stage's run, locked by this process. `open_run` makes it."""

    def __init__(self, path: Path, tracking: Tracking | None = None, *, keep_last: bool = True) -> None:
        self.path = path
        self.tracking = tracking
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.step = 0
        self.rows = {self.metrics.name: 0, self.samples.name: 0}
        self.keep_last, self.checkpoint_to_keep = keep_last, 0

    @property
    def finished(self) -> bool:
        return (self.path / "done.json").exists()

    def finish(self, results: dict[str, Any]) -> None:
        """Write `done.json`, the last file of a run, and remove all checkpoints but the one to extend the run from.

        That is the newest, or what `checkpoint_to_keep` names; with `loop.keep_last` false, none.
        """
        write_json(self.path / "done.json", results)
        steps = [step_of(path) for path in list_checkpoints(self.checkpoints)]
        kept = self.checkpoint_to_keep if self.checkpoint_to_keep in steps else max(steps, default=0)
        remove_checkpoints(self.checkpoints, {kept} if self.keep_last and steps else set(), set_aside=True)

    @property
    def results(self) -> dict[str, Any]:
        """What `finish` was given."""
        return dict(read_json(self.path / "done.json"))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl and send it to the trackers."""
        self.step = row.get("step", self.step)
        append_rows(self.metrics, [row])
        self.rows[self.metrics.name] += 1
        if self.tracking is not None:
            self.tracking.tell(row, self.metrics)

    def log_samples(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append samples of the model to samples.jsonl, under the step that was logged last."""
        append_rows(self.samples, [{"step": self.step, **row} for row in rows])
        self.rows[self.samples.name] += len(rows)

    def write_bad_step(self, about: dict[str, Any], figures: dict[str, float], batch: dict[str, Any]) -> Path:
        """Write bad_step.json, about the latest step that was refused: the reason, its figures, and its batch."""
        written = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
        write_json(self.path / "bad_step.json", about | {"figures": written, "batch": batch})
        return self.path / "bad_step.json"

    def forget_after(self, step: int, *, ended: bool = False, expected: dict[str, int] | None = None) -> None:
        """Remove the rows of metrics and samples after `step`: a resumed run is about to write them again.

        `ended`: what was evaluated at `step` was the run's end, and is to come again. `expected`: what `rows` was at
        `step`; rows that are missing are told.
        """
        self.step = max(step, 0)
        last = step - 1 if ended else step
        metrics = keep_rows(self.metrics, lambda row: row.get("step", 0) <= (step if "seconds" in row else last))
        samples = keep_rows(self.samples, lambda row: row.get("step", 0) <= last)
        self.rows = {self.metrics.name: len(metrics), self.samples.name: len(samples)}
        for name, count in (expected or {}).items():
            if count > self.rows[name]:
                say(f"{self.path / name} lacks {count - self.rows[name]} of its rows; training needs none of them")


class SilentRunFolder(RunFolder):
    """The same folder in the other processes of a distributed run: only the main process writes."""

    def finish(self, results: dict[str, Any]) -> None: ...

    def log(self, row: dict[str, Any]) -> None: ...

    def log_samples(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def forget_after(self, step: int, *, ended: bool = False, expected: dict[str, int] | None = None) -> None: ...

    def write_bad_step(self, about: dict[str, Any], figures: dict[str, float], batch: dict[str, Any]) -> Path:
        return self.path / "bad_step.json"


@contextmanager
def open_run(
    config: StageConfig, inputs: dict[str, str], world: World = ALONE, hardware: Hardware | None = None
) -> Iterator[RunFolder]:
    """Lock and prepare the run folder `config.out`.

    `inputs` are fingerprints of what the settings of these names stand for, such as the model of an earlier stage;
    `hardware` is where the stage computes, if it does. Raises `TrineError` when the folder holds another run that has
    begun, unless `overwrite` is set; and when there are several processes and no `world` is given.
    """
    if world.size == 1:
        one_process_only(f"{config.out}: this stage")
    with ExitStack() as stack:
        with world.main_first(f"run folder {config.out}"):
            if world.is_main:
                folder = stack.enter_context(_locked_run(config, inputs, world, hardware))
            else:
                folder = SilentRunFolder(config.out)
        yield folder


@contextmanager
def _locked_run(
    config: StageConfig, inputs: dict[str, str], world: World, hardware: Hardware | None
) -> Iterator[RunFolder]:
    path, values = config.out, config.model_dump(mode="json")
    if not (path / "done.json").exists():
        check_extras(config)
    loop = values.get("loop") or {}
    tracking = Tracking(loop.get("trackers") or (), values, path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with folder_lock(path):
        admit(config, record_of(config, inputs, hardware, world))
        try:
            yield RunFolder(path, tracking, keep_last=loop.get("keep_last", True))
        finally:
            tracking.finish()
