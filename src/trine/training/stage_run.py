"""What every training stage does around its own work, once: hardware, inputs, run folder, seed, LoRA, optimizers, loop.

A stage is a function of its config and a `StageRun` that returns its results. `stage_run` makes it a command: it locks
the run folder, returns at once where the run is finished, seeds PyTorch, and writes `done.json` with the results.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
from trine.runtime.distributed import ALONE, World, open_world
from trine.runtime.files import write_folder
from trine.runtime.seeds import seed_torch
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.inputs import input_fingerprint
from trine.training.loop import Loop
from trine.training.objective import Objective
from trine.training.optimizers import give_schedule, make_optimizers
from trine.training.parallel import Parallel
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
class TrainedApart:
    """A part of a model that is trained by an optimizer of its own; `shape`: of its Transformer.

    `prefixes`: what the names of its parameters begin with.
    """

    prefixes: tuple[str, ...]
    optimizer: OptimizerConfig
    shape: ModelConfig

    def holds(self, name: str) -> bool:
        """Whether the parameter called `name` is of this part."""
        return name.startswith(self.prefixes)


@dataclass(frozen=True)
class StageRun:
    """What a stage is given: where to compute, and the run folder to fill.

    >>> model, tokenizer = stage.open_trainable(config)
    >>> results = stage.train(config, objective, model, model.config, steps)
    >>> stage.write_model("model", tokenizer, lambda folder: save_model(model, folder))
    """

    hardware: Hardware
    folder: RunFolder
    world: World = ALONE

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
        self,
        config: TrainingConfig,
        objective: Objective[Any],
        model: nn.Module,
        shape: ModelConfig,
        steps: int,
        parallel: Parallel | None = None,
        apart: TrainedApart | None = None,
    ) -> dict[str, Any]:
        """Train what is not frozen in `model` (`shape`: of its Transformer); returns the final evaluation.

        `parallel`: the module that several processes train together, where the stage runs in several. `apart`: a part
        of `model` with an optimizer, a schedule and a clipped norm of its own.
        """
        optimizer, compute = config.lora.optimizer(config.optimizer), self.hardware.compute_dtype
        own = [] if apart is None else [pair for pair in model.named_parameters() if apart.holds(pair[0])]
        rest = [pair for pair in model.named_parameters() if apart is None or not apart.holds(pair[0])]
        optimizers = make_optimizers(rest, optimizer, shape, compute, self.world)
        clipped = [([each for _, each in rest], optimizer.clip_norm)]
        if apart is not None:
            others = make_optimizers(own, config.lora.optimizer(apart.optimizer), apart.shape, compute, self.world)
            give_schedule(others, apart.optimizer)
            optimizers += others
            clipped.append(([each for _, each in own], apart.optimizer.clip_norm))
        settings = (config.loop, optimizer)
        return Loop(
            objective, model, optimizers, steps, settings, self.folder, parallel=parallel, clipped=clipped
        ).train()

    def write_model(self, name: str, tokenizer: Tokenizer, save: Callable[[Path], None]) -> None:
        """Write the folder `name` of the run, whole or not at all: what `save` writes, and the tokenizer."""

        def fill(aside: Path) -> None:
            save(aside)
            tokenizer.save(aside)

        write_folder(self.path / name, fill)


def stage_run(*inputs: str, several_processes: bool = False) -> Callable[[Work[Config]], Callable[[Config], Path]]:
    """Make of a stage's work a function from its config to the run folder, which it fills unless it is finished.

    >>> @stage_run("model", "examples", "held_out")
    ... def run(config: FinetuneConfig, stage: StageRun) -> dict[str, Any]: ...
    >>> folder = run(config)

    `inputs` name the fields of the config whose contents the results depend on: paths, names of models, and functions
    as `package.module:function`; None and empty ones are left out. `several_processes`: the stage can be started by
    torchrun, and its `world` says who they are; only the main one writes.
    """

    def decorate(work: Work[Config]) -> Callable[[Config], Path]:
        @wraps(work)
        def run(config: Config) -> Path:
            hardware = open_hardware(config.hardware)
            with _world_of(hardware, several_processes) as world:
                values = {name: getattr(config, name) for name in inputs}
                fingerprints = {name: input_fingerprint(name, value) for name, value in values.items() if value}
                with open_run(config, fingerprints, world, hardware) as folder:
                    if not folder.finished:
                        seed_torch(config.seed)
                        results = work(config, StageRun(hardware, folder, world))
                        with world.main_first(f"results of {folder.path}"):
                            folder.finish(results)
            return folder.path

        return run

    return decorate


def _world_of(hardware: Hardware, several: bool) -> AbstractContextManager[World]:
    return open_world(hardware.device) if several else nullcontext(World(device=hardware.device))
