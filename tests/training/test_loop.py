"""The loop: gradients and figures that do not know about micro-batches, what it logs, when it evaluates and saves."""

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
from tests.training.line import OPTIMIZER, Line, line_loop, step_rows
from trine.config.base import LoopConfig
from trine.config.corpus import CorpusConfig
from trine.data.rows import stream_sampler
from trine.records import Term, TokenSpan
from trine.runtime.errors import TrineError
from trine.stages.finetuning.finetune import FinetuneObjective, PackedExamples
from trine.stages.language_modelling import LanguageModelLoss
from trine.stages.preferences.reward_items import pair_item
from trine.stages.preferences.reward_objective import RewardObjective
from trine.stages.pretraining.objective import PretrainObjective
from trine.training.loop import Effort, Loop
from trine.training.objective import Objective
from trine.training.optimizers import make_optimizers
from trine.training.parallel import Parallel
from trine.training.run_folder import RunFolder

ANYWHERE = Path("anywhere")


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
    objective = RewardObjective(model, [pair_item(ids(), ids(), ids()) for _ in range(30)], [], config)
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
