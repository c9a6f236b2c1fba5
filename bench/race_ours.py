"""Our side of the race: Muon, bf16 products over fp32 weights, the training loop of every stage."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.race_log import RaceLog
from bench.race_rows import RaceRows
from trine.config.base import LoopConfig, OptimizerConfig
from trine.data.rows import window_batch
from trine.model.config import ModelConfig
from trine.model.transformer import Transformer, initialize
from trine.records import Term
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.stages.language_modelling import LanguageModelLoss, loss_sum
from trine.training.loop import Loop
from trine.training.objective import StepObjective
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import RunFolder


class RaceObjective(StepObjective):
    """Next-token cross-entropy over the race's rows; an evaluation stops the clock and writes the log."""

    name = "race"

    def __init__(self, model: Transformer, rows: RaceRows, log: RaceLog, validation_rows: int) -> None:
        self.module, self.rows, self.log, self.validation_rows = LanguageModelLoss(model), rows, log, validation_rows
        self.done = 0

    def batches(self, step: int) -> Sequence[Tensor]:
        self.done = step + 1
        return [self.rows.batch(step)]

    def counts(self, batch: Tensor) -> dict[str, float]:
        return {"cross_entropy": float(batch[:, 1:].numel())}

    def terms(self, batch: Tensor) -> dict[str, Term]:
        return {"cross_entropy": Term(loss_sum(self.module, window_batch(batch)), float(batch[:, 1:].numel()))}

    def evaluate(self, final: bool) -> dict[str, Any]:
        self.log.stop()
        total, count = 0.0, 0
        for windows in self.rows.validation(self.validation_rows):
            total += float(loss_sum(self.module, window_batch(windows)))
            count += windows[:, 1:].numel()
        self.log.write(self.done, self.done * self.rows.batch_size * self.rows.row_tokens, total / count)
        self.log.start()
        return {}


def run(shape: ModelConfig, rows: RaceRows, log: RaceLog, steps: int, every: int, validation_rows: int) -> None:
    """Train `steps` steps, evaluating every `every` and at the end."""
    keep_freed_memory()
    hardware = choose_hardware()
    model = Transformer(shape, hardware.compute_dtype)
    initialize(model, seed=0)
    model.to(hardware.device)
    optimizer = OptimizerConfig()
    optimizers = make_optimizers(model.named_parameters(), optimizer, shape, hardware.compute_dtype)
    objective = RaceObjective(model, rows, log, validation_rows)
    loop = LoopConfig(evaluate_every=every, save_every=0)
    with tempfile.TemporaryDirectory(prefix="trine-race-") as folder:
        log.start()
        Loop(objective, model, optimizers, steps, (loop, optimizer), RunFolder(Path(folder))).train()
