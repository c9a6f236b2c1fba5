"""A stage as a function: its config's fields in, its run folder and figures out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trine.api.functions import config_function
from trine.config.base import StageConfig
from trine.config.stage import Stage
from trine.runtime.files import read_json
from trine.runtime.logs import log_rows


@dataclass(frozen=True)
class Result:
    """A finished stage.

        tuned = trine.finetune(out="runs/finetune", model="smollm2", examples="examples.jsonl")
        tuned.figures["held_out_loss"]      # what done.json says
        tuned.metrics()[-1]["loss"]         # the last row of metrics.jsonl
        trine.load(tuned).generate("Hello") # wherever a folder is asked for, a Result will do

    `path` is the run folder, `stage` the stage that made it.
    """

    path: Path
    stage: str

    @property
    def figures(self) -> dict[str, Any]:
        """The results of the run: done.json."""
        return dict(read_json(self.path / "done.json"))

    @property
    def model(self) -> Path | None:
        """The folder of the model, in Hugging Face form; None where the stage makes none."""
        folders = (self.path / "model", self.path / "policy")
        return next((folder for folder in folders if (folder / "config.json").exists()), None)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, in order; none where the stage writes none."""
        return log_rows(self.path / "metrics.jsonl")

    def __fspath__(self) -> str:
        return str(self.path)


@cache
def stage_function(name: str, stage: Stage) -> Callable[..., Result]:
    """`trine.<name>`, the stage as a function."""

    def perform(config: StageConfig) -> Result:
        return Result(run_stage(stage, config), stage.name)

    return config_function(name, stage.name, stage.config_class(), perform)


def run_stage(stage: Stage, config: StageConfig) -> Path:
    """Run a stage as the command does."""
    with working():
        return Path(stage.run_function()(config))


@contextmanager
def working() -> Iterator[None]:
    """What the command line sets up for long work, for the length of a call: memory is kept, signals save first."""
    from trine.runtime.allocator import keep_freed_memory, release_memory
    from trine.runtime.signals import saving_first

    keep_freed_memory()
    try:
        with saving_first():
            yield
    finally:
        release_memory()
