"""A model that takes no time to train, for tests of the loop itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import random_tensor
from trine.config.base import LoopConfig, OptimizerConfig
from trine.records import Term
from trine.runtime.signals import stop_request
from trine.training.loop import Loop
from trine.training.run_folder import RunFolder

OPTIMIZER = OptimizerConfig(kind="adamw", learning_rate=1e-3, epsilon=1e-3, clip_norm=1e9)


class Line:
    """Fits y = w x to noise that depends on the step; its state counts the steps."""

    name = "line"

    def __init__(self, model: nn.Linear, *, save_on: int = 1, stop_after: int | None = None) -> None:
        self.model, self.save_on, self.stop_after, self.seen = model, save_on, stop_after, 0

    def batches(self, step: int) -> Sequence[Tensor]:
        self.seen += 1
        if step + 1 == self.stop_after:
            stop_request.received = 15
        return random_tensor(8, 3, seed=step).split(3)

    def counts(self, batch: Tensor) -> dict[str, float]:
        return {"square": float(len(batch)), "watched": float(len(batch))}

    def terms(self, batch: Tensor) -> dict[str, Term]:
        error = (self.model(batch) - batch.sum(1, keepdim=True)).square().sum()
        return {"square": Term(error, 2.0), "watched": Term(error, 0.0)}

    def evaluate(self, final: bool) -> dict[str, Any]:
        return {"held_out": float(self.model.weight.detach().sum()), "final": final}

    def may_save(self, step: int) -> bool:
        return step % self.save_on == 0

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]

    def tensors(self, step: int) -> dict[str, Tensor]:
        return {}

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None: ...

    def note(self, figures: dict[str, float]) -> None: ...

    def observations(self, taken: bool = True) -> dict[str, float]:
        return {"seen": float(self.seen)}

    def describe_batch(self, step: int) -> dict[str, Any]:
        return {"seed": step}


def line_loop(folder: Path, config: LoopConfig, **options: Any) -> tuple[Loop, nn.Linear, RunFolder]:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 0.5]]))
        model.bias.zero_()
    folder.mkdir(exist_ok=True)
    settings = OptimizerConfig(kind="adamw", learning_rate=0.1, clip_norm=1.0)
    run = RunFolder(folder)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "peak": 0.1}], weight_decay=0.0)
    return Loop(Line(model, **options), model, [optimizer], 10, (config, settings), run), model, run


class Spoiled(Line):
    """A line whose batch of step 5 (and, if so asked, every one after) is not a number."""

    def __init__(self, model: nn.Linear, *, to_the_end: bool = False, **options: Any) -> None:
        super().__init__(model, **options)
        self.to_the_end = to_the_end

    def batches(self, step: int) -> Sequence[Tensor]:
        found = super().batches(step)
        spoiled = step == 4 or (step > 4 and self.to_the_end)
        return [batch * float("nan") for batch in found] if spoiled else found


def spoiled_loop(folder: Path, config: LoopConfig, **options: Any) -> tuple[Loop, nn.Linear, RunFolder]:
    loop, model, run = line_loop(folder, config)
    loop.objective = Spoiled(model, **options)
    return loop, model, run


def step_rows(run: RunFolder) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row | {"seconds": 0} for row in rows if "loss" in row]
