"""Trackers: TensorBoard, W&B and trackio as readers of the rows of metrics.jsonl, which stays the source of truth.

Each is an optional extra, chosen by `loop.trackers`. How many rows a tracker was told stands in `trackers/told.json`,
so that a resumed run, which writes the rows after its checkpoint again, tells each row once, and a tracker that is
named later (or could not be reached for a while) is told what it missed. A tracker that fails while training is left
behind with a warning: no figure of a chart is worth a run.
"""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json
from trine.runtime.logs import log_rows
from trine.runtime.progress import say

PROJECT = "trine"


class Tracker(Protocol):
    """Who is told the figures of a run."""

    def start(self, config: dict[str, Any], folder: Path) -> None:
        """Begin, or go on with, the run whose run folder is `folder`."""
        ...

    def log(self, step: int, row: dict[str, float]) -> None:
        """The figures of one row; rows of a step may be several (training, evaluation)."""
        ...

    def finish(self) -> None:
        """Write what is not written yet."""
        ...


class TensorBoard:
    """Event files in `trackers/tensorboard`: `tensorboard --logdir runs`."""

    def start(self, config: dict[str, Any], folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "trackers" / "tensorboard"
        begun = place.exists()
        self._writer = SummaryWriter(str(place))
        if not begun:
            self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```")

    def log(self, step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # killed, a run leaves what told.json says it told

    def finish(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `trine` on W&B; `WANDB_MODE=offline` keeps it in `trackers/wandb` for `wandb sync`."""

    def start(self, config: dict[str, Any], folder: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT, name=folder.resolve().name, id=run_id(folder), resume="allow", dir=folder / "trackers",
            config=config,
        )  # fmt: skip

    def log(self, step: int, row: dict[str, float]) -> None:
        self._run.log(row, step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """A run of the project `trine` in trackio's database on this machine: `trackio show`."""

    def start(self, config: dict[str, Any], folder: Path) -> None:
        import trackio

        name = f"{folder.resolve().name}-{run_id(folder)}"  # by which trackio knows a run again
        self._run = trackio.init(project=PROJECT, name=name, config=config, resume="allow")

    def log(self, step: int, row: dict[str, float]) -> None:
        self._run.log(row, step=step)

    def finish(self) -> None:
        self._run.finish()


def run_id(folder: Path) -> str:
    """What trackers with a memory of their own know this run by, resumed or not."""
    known = folder / "trackers" / "run.json"
    if not known.exists():
        write_json(known, {"id": secrets.token_hex(4)})
    return str(read_json(known)["id"])


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}


class Tracking:
    """The trackers of one run, told every row of its metrics.jsonl once."""

    def __init__(self, names: Sequence[str], config: dict[str, Any], folder: Path) -> None:
        """Nothing starts before the first row; that the packages are there is checked by `config/extras.py`."""
        self.config, self.folder = config, folder
        self.trackers = {name: TRACKERS[name]() for name in names}
        self.rows = 0

    def tell(self, row: dict[str, Any], metrics: Path) -> None:
        """`row` was just appended to `metrics`; at the first one, whatever stands there and was not told is told."""
        if not self.trackers:
            return
        new = [row] if self.rows else self._start(metrics)
        for each in new:
            self.rows += 1
            for name in list(self.trackers):
                if self.rows > self.told[name]:
                    self._tell(name, each)
        self._note()

    def _start(self, metrics: Path) -> list[dict[str, Any]]:
        """All rows there are, every tracker begun."""
        before = read_json(self._place) if self._place.exists() else {}
        self.told = {name: int(before.get(name, 0)) for name in {*before, *self.trackers}}
        self._place.parent.mkdir(exist_ok=True)
        for name, tracker in self.trackers.items():
            try:
                tracker.start(self.config, self.folder)
            except Exception as error:  # each package has errors of its own
                raise TrineError(f"loop.trackers: {name} does not start: {error}") from error
        return log_rows(metrics)

    def _tell(self, name: str, row: dict[str, Any]) -> None:
        try:
            self.trackers[name].log(int(row.get("step", 0)), figures(row))
            self.told[name] = self.rows
        except Exception as error:
            say(f"warning: {name} fails and is told no more of this run; all rows are in metrics.jsonl: {error}")
            del self.trackers[name]

    def _note(self) -> None:
        """Whole or absent, but not flushed to the disk at every step: a lost count costs a row told twice."""
        aside = self._place.with_suffix(".partial")
        aside.write_text(json.dumps(self.told))
        aside.replace(self._place)

    @property
    def _place(self) -> Path:
        return self.folder / "trackers" / "told.json"

    def finish(self) -> None:
        for name, tracker in self.trackers.items() if self.rows else ():
            try:
                tracker.finish()
            except Exception as error:
                say(f"warning: {name} does not finish: {error}")


def figures(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics row, apart from its step."""
    return {
        name: value
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
