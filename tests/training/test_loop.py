"""The loop: gradients that do not know about micro-batches, and a resumed run that is the run never stopped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.conftest import SHAPE, finetune_config, pretrain_config, reward_config
from tests.tiny import random_tensor, tiny_model, tiny_score_model
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.corpus import CorpusConfig
from trine.data.rows import stream_sampler
from trine.records import Term, TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.files import read_jsonl
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.finetuning.finetune import FinetuneObjective, PackedExamples
from trine.stages.language_modelling import LanguageModelLoss
from trine.stages.preferences.pair_scores import Pair
from trine.stages.preferences.reward import RewardObjective
from trine.stages.pretraining.objective import PretrainObjective
from trine.training.loop import Effort, Loop, Objective
from trine.training.optimizers import make_optimizers
from trine.training.parallel import Parallel
from trine.training.run_folder import RunFolder

ANYWHERE = Path("anywhere")
OPTIMIZER = OptimizerConfig(kind="adamw", learning_rate=1e-3, epsilon=1e-3, clip_norm=1e9)


def trained(
    objective: Objective[Any], model: nn.Module, shape: Any, folder: Path, steps: int = 3
) -> list[dict[str, Any]]:
    """Train in place; the logged rows."""
    optimizers = make_optimizers(model.named_parameters(), OPTIMIZER, shape, torch.bfloat16)
    run = RunFolder(folder)
    folder.mkdir()
    Loop(objective, model, optimizers, steps, (LoopConfig(save_every=0), OPTIMIZER), run).train()
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def pretraining(micro: int, folder: Path) -> tuple[nn.Module, list[dict[str, Any]]]:
    ids = np.random.default_rng(0).integers(0, 97, 2000).astype(np.uint16)
    config = pretrain_config(ANYWHERE, CorpusConfig(), ANYWHERE, row_tokens=16, batch_size=6, micro_batch_size=micro)
    model = tiny_model("qwen3")
    objective = PretrainObjective(
        Parallel(module=LanguageModelLoss(model)), stream_sampler(ids, 16, 0), {}, config, 100, 0
    )
    return model, trained(objective, model, model.config, folder)


def finetuning(micro: int, folder: Path) -> tuple[nn.Module, list[dict[str, Any]]]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 30, 60).tolist()
    spans = [
        TokenSpan(tuple(generator.integers(0, 97, n).tolist()), tuple(place > 1 for place in range(n))) for n in lengths
    ]
    config = finetune_config(
        ANYWHERE, ANYWHERE, ANYWHERE, row_tokens=32, batch_size=6, micro_batch_size=micro, prompt_weight=0.5
    )
    model = tiny_model("gpt2")
    objective = FinetuneObjective(Parallel(module=LanguageModelLoss(model)), PackedExamples(spans, 32, 0), [], config)
    return model, trained(objective, model, model.config, folder)


def rewarding(micro: int, folder: Path) -> tuple[nn.Module, list[dict[str, Any]]]:
    generator = np.random.default_rng(0)

    def ids() -> list[int]:
        return generator.integers(0, 97, generator.integers(2, 15)).tolist()

    config = reward_config(ANYWHERE, ANYWHERE, ANYWHERE, batch_size=6, micro_batch_size=micro)
    model = tiny_score_model("qwen3")
    objective = RewardObjective(model, [Pair(ids(), ids(), ids()) for _ in range(30)], [], config)
    return model, trained(objective, model, model.trunk.config, folder)


@pytest.mark.parametrize("stage", [pretraining, finetuning, rewarding])
@pytest.mark.parametrize("micro", [1, 4])
def test_weights_and_figures_do_not_depend_on_the_micro_batch(stage: Any, micro: int, tmp_path: Path) -> None:
    """1.17: every figure of the log, and it is the same."""
    whole, rows = stage(6, tmp_path / "whole")
    cut, cut_rows = stage(micro, tmp_path / "cut")
    for name, weight in whole.named_parameters():
        assert_close(
            dict(cut.named_parameters())[name], weight, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert len(rows) == len(cut_rows)
    for row, cut_row in zip(rows, cut_rows, strict=True):
        assert cut_row.keys() == row.keys()
        for key in row.keys() - {"seconds", "tokens_per_second", "loader_share"}:
            assert cut_row[key] == pytest.approx(row[key], rel=1e-5), key


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

    def observations(self, taken: bool = True) -> dict[str, float]:
        return {"seen": float(self.seen)}

    def describe_batch(self, step: int) -> dict[str, Any]:
        return {"seed": step}


class Peaked(Line):
    """A line that logs its largest error too."""

    def __init__(self, model: nn.Linear, micro: int) -> None:
        super().__init__(model)
        self.micro = micro

    def batches(self, step: int) -> Sequence[Tensor]:
        return random_tensor(8, 3, seed=step).split(self.micro)

    def terms(self, batch: Tensor) -> dict[str, Term]:
        error = (self.model(batch) - batch.sum(1, keepdim=True)).detach().abs()
        return super().terms(batch) | {"peak": Term(error.max(), 0.0, "max")}


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


def step_rows(run: RunFolder) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row | {"seconds": 0} for row in rows if "loss" in row]


@pytest.fixture(autouse=True)
def forget_the_request() -> Any:
    yield
    stop_request.received = None


def test_a_row_tells_loss_terms_norm_rate_and_observations(tmp_path: Path) -> None:
    loop, _, run = line_loop(tmp_path, LoopConfig(save_every=0))
    loop.train()
    row = step_rows(run)[0]
    assert row["loss"] == pytest.approx(2 * row["square"])
    assert row["watched"] == row["square"]
    assert set(row) == {"step", "loss", "square", "watched", "gradient_norm", "learning_rate", "seen", "seconds"}


def test_a_logged_maximum_does_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    peaks = []
    for micro in (8, 3, 1):
        loop, model, run = line_loop(tmp_path / str(micro), LoopConfig(save_every=0))
        loop.objective = Peaked(model, micro)
        loop.train()
        peaks.append([row["peak"] for row in step_rows(run)])
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-4) and peaks[2] == pytest.approx(peaks[0], rel=1e-4)


def test_a_row_of_several_steps_holds_the_largest_of_their_maxima(tmp_path: Path) -> None:
    """1.17: not the mean of them."""
    each, some = (line_loop(tmp_path / name, LoopConfig(save_every=0)) for name in ("each", "some"))
    for loop, model, _ in (each, some):
        loop.objective = Peaked(model, 3)
    some[0].log_every = 4
    each[0].train()
    some[0].train()
    peaks = [row["peak"] for row in step_rows(each[2])]
    assert [row["peak"] for row in step_rows(some[2])] == [max(peaks[:4]), max(peaks[4:8]), max(peaks[8:])]


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


def test_a_maximum_is_never_trained_on() -> None:
    with pytest.raises(ValueError, match="give it weight 0"):
        Term(torch.tensor(1.0), reduction="max")


def test_a_row_may_stand_for_several_steps(tmp_path: Path) -> None:
    """10 steps, 4 a row: means of 1-4, 5-8 and 9-10, and the seconds they took together."""
    every, _, each_run = line_loop(tmp_path / "each", LoopConfig(save_every=0))
    every.train()
    some, _, some_run = line_loop(tmp_path / "some", LoopConfig(save_every=0))
    some.log_every = 4
    some.train()
    each, rows = step_rows(each_run), step_rows(some_run)
    assert [row["step"] for row in rows] == [4, 8, 10]
    for row, part in zip(rows, (each[:4], each[4:8], each[8:]), strict=True):
        for name in ("loss", "gradient_norm", "seen"):
            assert row[name] == pytest.approx(sum(other[name] for other in part) / len(part))


def test_a_save_that_is_due_waits_for_a_step_after_which_the_objective_may_be_saved(tmp_path: Path) -> None:
    loop, _, run = line_loop(tmp_path, LoopConfig(save_every=3, keep_checkpoints=10), save_on=4)
    loop.train()
    assert sorted(folder.name for folder in run.checkpoints.iterdir()) == ["step-00000004", "step-00000008"]


def test_evaluation_comes_when_due_and_at_the_end(tmp_path: Path) -> None:
    loop, _, run = line_loop(tmp_path, LoopConfig(save_every=0, evaluate_every=4))
    results = loop.train()
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(row["step"], row["final"]) for row in rows if "final" in row] == [(4, False), (8, False), (10, True)]
    assert results["final"] is True


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


def test_as_many_checkpoints_stay_as_asked(tmp_path: Path) -> None:
    loop, _, run = line_loop(tmp_path, LoopConfig(save_every=2, keep_checkpoints=3))
    loop.train()
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["step-00000006", "step-00000008", "step-00000010"]  # the last step's too


def test_a_shape_in_a_config_is_the_model_that_is_trained() -> None:
    from trine.stages.pretraining.pretrain import model_config

    config = model_config(SHAPE, 320)
    assert (config.layers, config.width, config.heads, config.context, config.vocab_size) == (2, 32, 2, 128, 320)


def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_weights(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 97, 2000).astype(np.uint16)
    config = pretrain_config(ANYWHERE, CorpusConfig(), ANYWHERE, row_tokens=16, batch_size=6)
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.norm.weight.fill_(float("inf"))
    objective = PretrainObjective(
        Parallel(module=LanguageModelLoss(model)), stream_sampler(ids, 16, 0), {}, config, 100, 0
    )
    before = model.embedding.weight.clone()
    with pytest.raises(TrineError, match="pretrain: the gradient of step 1 is not finite"):
        trained(objective, model, model.config, tmp_path / "run")
    assert torch.equal(model.embedding.weight, before)


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


def test_speed_is_logged_where_tokens_are_counted(tmp_path: Path) -> None:
    class Counting(Line):
        def observations(self, taken: bool = True) -> dict[str, float]:
            return {"tokens": 1000.0}

    loop, model, run = line_loop(tmp_path, LoopConfig(save_every=0))
    loop.objective, loop.effort = Counting(model), Effort(flops_per_token=3.0, machine_flops=600.0)
    loop.train()
    row = json.loads(run.metrics.read_text().splitlines()[0])
    assert row["tokens_per_second"] == pytest.approx(1000 / row["seconds"])
    assert row["matmul_share"] == pytest.approx(row["tokens_per_second"] * 3 / 600)
