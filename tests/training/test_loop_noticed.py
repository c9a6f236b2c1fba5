"""What the loop writes down that no weight depends on: the time of a row, and no checkpoint amid an iteration."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.line import Line, line_loop, spoiled_loop, step_rows
from trine.config.base import LoopConfig
from trine.runtime.errors import TrineError
from trine.runtime.files import read_jsonl

SECONDS = 0.02


class Slow(Line):
    """A line whose batches take a moment."""

    def batches(self, step: int) -> Sequence[Tensor]:
        time.sleep(SECONDS)
        return super().batches(step)


def test_a_row_of_several_steps_tells_the_seconds_they_took_together(tmp_path: Path) -> None:
    """10 steps, 4 a row; the mean of four steps would be a quarter of that."""
    loop, model, run = line_loop(tmp_path, LoopConfig(save_every=0))
    loop.objective, loop.log_every = Slow(model), 4
    started = time.perf_counter()
    loop.train()
    passed = time.perf_counter() - started
    seconds = [row["seconds"] for row in read_jsonl(run.metrics) if "loss" in row]
    assert all(took >= steps * SECONDS for took, steps in zip(seconds, (4, 4, 2), strict=True))
    assert sum(seconds) <= passed


def test_a_bad_step_amid_an_iteration_leaves_no_checkpoint_there(tmp_path: Path) -> None:
    """Step 5 is spoiled and the objective can be saved after every third: the run goes on from step 3."""
    stopped, _, run = spoiled_loop(tmp_path / "run", LoopConfig(save_every=3), save_on=3)
    with pytest.raises(TrineError, match="step 5"):
        stopped.train()
    assert [folder.name for folder in run.checkpoints.iterdir()] == ["step-00000003"]
    skipping = LoopConfig(save_every=3, on_bad_step="skip")
    again, model, run = spoiled_loop(tmp_path / "run", skipping, save_on=3)
    again.train()
    straight, expected, straight_run = spoiled_loop(tmp_path / "straight", skipping, save_on=3)
    straight.train()
    assert torch.equal(model.weight, expected.weight) and step_rows(run) == step_rows(straight_run)
