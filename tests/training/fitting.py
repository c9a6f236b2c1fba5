"""A stage small enough to be trained hundreds of times in a test: it fits a line to numbers from a file.

`HAPPENINGS` are what a test lets happen at a step: a signal, which saves and stops, or a kill, from which nothing is
saved.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny import random_tensor
from trine.config.base import HardwareConfig, LoopConfig, OptimizerConfig, PositiveInt, StageConfig
from trine.config.resumption import ByContent, ChangesBits, Extends
from trine.config.stage import Stage
from trine.records import Term
from trine.runtime.files import write_folder
from trine.runtime.signals import stop_request
from trine.training.loop import Loop
from trine.training.objective import StepObjective
from trine.training.stage_run import StageRun, stage_run

FITTING = Stage(
    "fitting", "fit a line", config="tests.training.fitting:FittingConfig", run="tests.training.fitting:run",
    outputs=("model",), makes="a line",
)  # fmt: skip
HAPPENINGS: dict[int, Callable[[], None]] = {}


class Killed(BaseException):
    """Nothing runs after it, as after SIGKILL."""


def signal() -> None:
    stop_request.received = 15


def kill() -> None:
    raise Killed


class FittingConfig(StageConfig):
    """Fit a line."""

    numbers: ByContent[Path]
    steps: Extends[PositiveInt] = 6
    rows: ChangesBits[PositiveInt] = 4
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", learning_rate=0.1, warmup_steps=2, decay="constant", decay_share=0.34, final_share=0.1
    )
    loop: LoopConfig = LoopConfig(save_every=3, evaluate_every=2)
    hardware: HardwareConfig = HardwareConfig(device="cpu", precision="fp32", threads=1)


class Fitting(StepObjective):
    """y = w x for the numbers of the file; what it needs to know of earlier steps is the state it saves."""

    name = "fitting"

    def __init__(self, model: nn.Linear, offset: float, rows: int, stage: StageRun) -> None:
        self.model, self.offset, self.rows, self.stage, self.seen = model, offset, rows, stage, 0

    def batches(self, step: int) -> Sequence[Tensor]:
        HAPPENINGS.get(step + 1, lambda: None)()
        self.seen += 1
        return random_tensor(8, 3, seed=step).split(self.rows)

    def counts(self, batch: Tensor) -> dict[str, float]:
        return {"error": float(len(batch))}

    def terms(self, batch: Tensor) -> dict[str, Term]:
        return {"error": Term((self.model(batch)[:, 0] - batch.sum(1) - self.offset).square().sum())}

    def evaluate(self, final: bool) -> dict[str, Any]:
        self.stage.folder.log_samples([{"weight": float(self.model.weight[0, 0])}])
        return {"held_out": float(self.model.weight.sum()), "final": final}

    def observations(self, taken: bool = True) -> dict[str, float]:
        return {"seen": float(self.seen)}

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


@stage_run("numbers")
def run(config: FittingConfig, stage: StageRun) -> dict[str, Any]:
    """Train; write `model/`."""
    model = nn.Linear(3, 1)
    objective = Fitting(model, float(config.numbers.read_text()), config.rows, stage)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "peak": config.optimizer.learning_rate}])
    results = Loop(objective, model, [optimizer], config.steps, (config.loop, config.optimizer), stage.folder).train()
    tensors = {name: each.detach() for name, each in model.named_parameters()}
    write_folder(stage.path / "model", lambda aside: save_file(tensors, aside / "model.safetensors"))
    return results
