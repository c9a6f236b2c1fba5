"""What every training stage does around its own work, once: hardware, inputs, run folder, seed, LoRA, optimizers, loop.

A stage is a function of its config and a `StageRun` that returns its results. `stage_run` makes it a command: it locks
the run folder, returns at once where the run is finished, seeds PyTorch, and writes `done.json` with the results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from trine.catalog.adapters import begin_lora
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import LoopConfig, OptimizerConfig, StageConfig
from trine.config.lora import LoraConfig
from trine.model.config import ModelConfig
from trine.model.transformer import Transformer
from trine.runtime.device import Hardware
from trine.runtime.files import write_folder
from trine.runtime.seeds import seed_torch
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.inputs import input_fingerprint
from trine.training.loop import Loop, Objective
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import RunFolder, open_run

Config = TypeVar("Config", bound=StageConfig)
Work = Callable[[Config, "StageRun"], dict[str, Any]]


class TrainingConfig(Protocol):
    """What the config of a stage that trains a model holds, besides what every stage's does."""

    @property
    def model(self) -> str: ...

    @property
    def adapter(self) -> str | None: ...

    @property
    def seed(self) -> int: ...

    @property
    def lora(self) -> LoraConfig: ...

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def loop(self) -> LoopConfig: ...


@dataclass(frozen=True)
class StageRun:
    """What a stage is given: where to compute, and the run folder to fill.

    >>> model, tokenizer = stage.open_trainable(config)
    >>> results = stage.train(config, objective, model, model.config, steps)
    >>> stage.write_model("model", tokenizer, lambda folder: save_model(model, folder))
    """

    hardware: Hardware
    folder: RunFolder

    @property
    def path(self) -> Path:
        return self.folder.path

    def open_model(self, name: str, adapter: str | None = None) -> tuple[Transformer, Tokenizer]:
        """A language model, with the adapter called `adapter` merged into it, and its tokenizer."""
        return open_model(name, self.hardware, adapter)

    def open_trainable(self, config: TrainingConfig) -> tuple[Transformer, Tokenizer]:
        """The model to train and its tokenizer; with the adapters of `config.lora`, where it asks for them."""
        model, tokenizer = self.open_model(config.model, config.adapter)
        begin_lora(model, config.lora, config.seed)
        return model, tokenizer

    def train(
        self, config: TrainingConfig, objective: Objective[Any], model: nn.Module, shape: ModelConfig, steps: int
    ) -> dict[str, Any]:
        """Train what is not frozen in `model` (`shape`: of its Transformer); returns the final evaluation."""
        optimizer = config.lora.optimizer(config.optimizer)
        optimizers = make_optimizers(model.named_parameters(), optimizer, shape, self.hardware.compute_dtype)
        return Loop(objective, model, optimizers, steps, (config.loop, optimizer), self.folder).train()

    def write_model(self, name: str, tokenizer: Tokenizer, save: Callable[[Path], None]) -> None:
        """Write the folder `name` of the run, whole or not at all: what `save` writes, and the tokenizer."""

        def fill(aside: Path) -> None:
            save(aside)
            tokenizer.save(aside)

        write_folder(self.path / name, fill)


def stage_run(*inputs: str) -> Callable[[Work[Config]], Callable[[Config], Path]]:
    """Make of a stage's work a function from its config to the run folder, which it fills unless it is finished.

    >>> @stage_run("model", "examples", "held_out")
    ... def run(config: FinetuneConfig, stage: StageRun) -> dict[str, Any]: ...
    >>> folder = run(config)

    `inputs` name the fields of the config whose contents the results depend on: paths, names of models, and functions
    as `package.module:function`; None and empty ones are left out.
    """

    def decorate(work: Work[Config]) -> Callable[[Config], Path]:
        @wraps(work)
        def run(config: Config) -> Path:
            hardware = open_hardware(config.hardware)
            values = {name: getattr(config, name) for name in inputs}
            fingerprints = {name: input_fingerprint(name, value) for name, value in values.items() if value}
            with open_run(config, fingerprints, hardware=hardware) as folder:
                if not folder.finished:
                    seed_torch(config.seed)
                    folder.finish(work(config, StageRun(hardware, folder)))
            return folder.path

        return run

    return decorate
