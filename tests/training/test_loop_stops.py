"""The loop stops (a signal, a step that is not finite, no batch to be had), and the same run goes on bit for bit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import random_tensor
from tests.training.line import Line, line_loop, spoiled_loop, step_rows
from trine.config.base import LoopConfig
from trine.runtime.errors import TrineError
from trine.runtime.files import read_jsonl
from trine.runtime.signals import Interrupted, stop_request


@pytest.fixture(autouse=True)
def forget_the_request() -> Any:
    yield
    stop_request.received = None


@pytest.mark.parametrize("stop_after, save_on", [(3, 1), (3, 4), (10, 1)])
def test_a_stopped_run_goes_on_bitwise_and_logs_each_step_once(tmp_path: Path, stop_after: int, save_on: int) -> None:
    """With save_on 4 the objective lets the loop save after steps 4 and 8 only; stopping waits for that."""
    straight, expected, straight_run = line_loop(tmp_path / "straight", LoopConfig(save_every=0))
    straight.train()
    loop, _, run = line_loop(tmp_path / "run", LoopConfig(save_every=0), stop_after=stop_after, save_on=save_on)
    with pytest.raises(Interrupted):
        loop.train()
    stop_request.received = None
    again, model, run = line_loop(tmp_path / "run", LoopConfig(save_every=0))
    again.train()
    assert torch.equal(model.weight, expected.weight) and torch.equal(model.bias, expected.bias)
    assert step_rows(run) == step_rows(straight_run)
    assert [row["step"] for row in step_rows(run)] == list(range(1, 11))


def test_steps_after_the_last_checkpoint_are_logged_once(tmp_path: Path) -> None:
    """A killed process leaves rows its checkpoint knows nothing of."""
    loop, _, run = line_loop(tmp_path, LoopConfig(save_every=3, evaluate_every=3))
    loop.train()
    again, _, run = line_loop(tmp_path, LoopConfig(save_every=3, evaluate_every=3))
    again.train()
    assert [row["step"] for row in step_rows(run)] == list(range(1, 11))


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(tmp_path: Path) -> None:
    straight, expected, _ = line_loop(tmp_path / "straight", LoopConfig(save_every=0))
    straight.train()
    loop, _, run = line_loop(tmp_path / "run", LoopConfig(save_every=2, keep_checkpoints=3))
    loop.train()
    next((run.checkpoints / "step-00000008").glob("*.safetensors")).write_bytes(b"broken")
    again, model, run = line_loop(tmp_path / "run", LoopConfig(save_every=2, keep_checkpoints=3))
    again.train()
    assert torch.equal(model.weight, expected.weight)
    assert [row["step"] for row in step_rows(run)] == list(range(1, 11))


class Breaking(torch.optim.AdamW):
    """An optimizer whose step number `at` leaves a weight that is no number."""

    at = 0

    def step(self, closure: Any = None) -> Any:
        super().step()
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == self.at:
            self.param_groups[0]["params"][0].data[0, 1] = float("inf")


@pytest.mark.parametrize("at", [3, 9, 10])
@pytest.mark.parametrize("save_every", [0, 1, 2])
def test_weights_that_are_not_finite_are_never_saved(at: int, save_every: int, tmp_path: Path) -> None:
    """1.19: neither as a checkpoint nor as the result, though the last step has no step after it that would notice."""
    loop, model, run = line_loop(tmp_path, LoopConfig(save_every=save_every))
    loop.optimizers = [Breaking([{"params": list(model.parameters()), "peak": 0.1}], weight_decay=0.0)]
    Breaking.at = at
    with pytest.raises(TrineError, match=r"line: (after step \d+ of 10 weights|the (loss|gradient) of step)"):
        loop.train()
    kept = sorted((tmp_path / "checkpoints").glob("step-*")) if (tmp_path / "checkpoints").exists() else []
    assert all(int(path.name[5:]) < at for path in kept) and (kept or save_every == 0)
    assert not any("held_out" in row for row in read_jsonl(run.metrics))


class Failing(Line):
    """A line whose batches cannot be had at step 5."""

    def batches(self, step: int) -> Sequence[Tensor]:
        if step == 4 and self.fails:
            raise TrineError("the reward function is at fault")
        return super().batches(step)

    fails = True


def test_what_fails_to_make_a_batch_loses_no_update(tmp_path: Path) -> None:
    """3.7: a reward function or an environment at fault may be mended, and the run goes on, bit for bit."""
    loop, model, _ = line_loop(tmp_path / "run", LoopConfig(save_every=0))
    loop.objective = Failing(model)
    with pytest.raises(TrineError, match="the reward function is at fault"):
        loop.train()
    again, resumed, run = line_loop(tmp_path / "run", LoopConfig(save_every=0))
    mended = Failing(resumed)
    mended.fails = False
    again.objective = mended
    again.train()
    assert mended.seen == 10
    straight, expected, straight_run = line_loop(tmp_path / "straight", LoopConfig(save_every=0))
    straight.train()
    assert torch.equal(resumed.weight, expected.weight) and step_rows(run) == step_rows(straight_run)


def test_a_bad_step_stops_the_run_and_its_batch_is_named(tmp_path: Path) -> None:
    loop, model, run = spoiled_loop(tmp_path, LoopConfig(save_every=0))
    with pytest.raises(
        TrineError, match=r"line: the gradient of step 5 is not finite.*bad_step\.json identifies the batch"
    ):
        loop.train()
    record = json.loads((tmp_path / "bad_step.json").read_text())
    assert (record["step"], record["batch"], record["goes_on"]) == (5, {"seed": 4}, False)
    assert record["figures"]["square"] == "nan"
    assert model.weight.isfinite().all() and step_rows(run)[-1]["step"] == 4


def test_a_run_that_stopped_at_a_bad_step_goes_on_there_without_it(tmp_path: Path) -> None:
    """Though no checkpoint was due: the same weights as those of a run that skipped from the beginning."""
    stopped, _, _ = spoiled_loop(tmp_path / "run", LoopConfig(save_every=0))
    with pytest.raises(TrineError, match="the gradient of step 5 is not finite"):
        stopped.train()
    again, model, run = spoiled_loop(tmp_path / "run", LoopConfig(save_every=0, on_bad_step="skip"))
    again.train()
    straight, expected, straight_run = spoiled_loop(tmp_path / "straight", LoopConfig(save_every=0, on_bad_step="skip"))
    straight.train()
    assert torch.equal(model.weight, expected.weight) and step_rows(run) == step_rows(straight_run)


def test_a_skipped_step_is_counted_and_leaves_weights_and_moments(tmp_path: Path) -> None:
    """The same ten steps without the fifth batch: that of a model which never saw it."""
    loop, model, run = spoiled_loop(tmp_path / "skips", LoopConfig(save_every=0, on_bad_step="skip"))
    loop.train()
    assert [row["step"] for row in step_rows(run)] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [row.get("skipped") for row in step_rows(run)] == [None] * 4 + [1.0] * 5
    other, expected, _ = line_loop(tmp_path / "other", LoopConfig(save_every=0))
    whole = other._step
    other._step = lambda step: {"loss": 0.0} if step == 4 else whole(step)  # type: ignore[method-assign]
    other.train()
    assert torch.equal(model.weight, expected.weight)


def test_too_many_skipped_steps_stop_the_run_all_the_same(tmp_path: Path) -> None:
    config = LoopConfig(save_every=0, on_bad_step="skip", max_skips=3)
    loop, _, _ = spoiled_loop(tmp_path, config, to_the_end=True)
    with pytest.raises(TrineError, match="the gradient of step 8 is not finite"):
        loop.train()
    assert json.loads((tmp_path / "bad_step.json").read_text())["step"] == 8


def test_a_run_stopped_after_a_skip_goes_on_bitwise(tmp_path: Path) -> None:
    config = LoopConfig(save_every=0, on_bad_step="skip")
    straight, expected, straight_run = spoiled_loop(tmp_path / "straight", config)
    straight.train()
    loop, _, _ = spoiled_loop(tmp_path / "run", config, stop_after=7)
    with pytest.raises(Interrupted):
        loop.train()
    stop_request.received = None
    again, model, run = spoiled_loop(tmp_path / "run", config)
    again.train()
    assert torch.equal(model.weight, expected.weight)
    assert step_rows(run) == step_rows(straight_run)


def test_a_jump_is_a_bad_step_where_jumps_are_watched(tmp_path: Path) -> None:
    class Jumping(Line):
        def batches(self, step: int) -> Sequence[Tensor]:
            found = [random_tensor(64, 3, seed=step)]
            return [batch * 1000 for batch in found] if step == 8 else found

    config = LoopConfig(save_every=0, spike_window=5)
    for watched in (False, True):
        loop, model, _ = line_loop(tmp_path / str(watched), config)
        loop.objective, loop.guard.spikes = Jumping(model), watched
        if watched:
            with pytest.raises(TrineError, match="the loss of step 9 jumped to"):
                loop.train()
        else:
            loop.train()
