"""Two processes train as one does: DDP and FSDP2, their checkpoints, their signals and their errors."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU, finetune_config, pretrain_config
from tests.several_processes import in_processes
from tests.tiny import tiny_model
from trine.catalog.loading import open_hardware
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.corpus import CorpusConfig
from trine.config.text import PretrainConfig
from trine.data.rows import Batch
from trine.records import TokenSpan
from trine.runtime.distributed import World, open_world
from trine.runtime.errors import TrineError
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.finetuning.finetune import FinetuneObjective, PackedExamples
from trine.stages.language_modelling import LanguageModelLoss
from trine.stages.pretraining import pretrain
from trine.training.checkpoints import list_checkpoints
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.parallel import Kind, parallelise
from trine.training.run_folder import RunFolder, SilentRunFolder

STEPS = 50
OPTIMIZERS = {
    "adamw": OptimizerConfig(kind="adamw", learning_rate=0.003, weight_decay=0.1),
    "muon": OptimizerConfig(kind="muon", newton_schulz="fp32", weight_decay=0.1),
}


@pytest.fixture
def small(tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path) -> Any:
    """A pretraining run by folder name; 8 rows of 32 a step, 2 at once."""

    def config(name: str, optimizer: str, **changes: Any) -> PretrainConfig:
        values: dict[str, Any] = {
            "tokens": STEPS * 8 * 32, "row_tokens": 32, "batch_size": 8, "micro_batch_size": 2,
            "optimizer": OPTIMIZERS[optimizer], "loop": LoopConfig(save_every=0, evaluate_every=20),
        }  # fmt: skip
        return pretrain_config(tmp_path / name, corpus, tokenizer_run, **values | changes)

    return config


def curve(folder: Path, name: str = "loss") -> list[float]:
    """A column of a run's log."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def run_all(configs: Sequence[PretrainConfig]) -> None:
    with open_world(torch.device("cpu")) as world:
        for config in configs:
            pretrain.run_in(world, config, open_hardware(PLAIN_CPU))


def test_two_processes_have_the_losses_of_one(small: Any) -> None:
    alone = {kind: pretrain.run(small(f"{kind} alone", kind)) for kind in OPTIMIZERS}
    pairs = [(kind, parallel) for kind in OPTIMIZERS for parallel in ("ddp", "fsdp")]
    configs = [small(f"{kind} {parallel}", kind, parallel=parallel) for kind, parallel in pairs]
    in_processes(2, run_all, configs)
    for (kind, _), config in zip(pairs, configs, strict=True):
        bound = 1e-5 if kind == "adamw" else 1e-3
        assert len(curve(config.out)) == STEPS
        for column in ("loss", "gradient_norm", "bits_per_byte/folders"):
            assert curve(config.out, column) == pytest.approx(curve(alone[kind], column), rel=bound), config.out
        assert (config.out / "model" / "model.safetensors").exists() and (config.out / "done.json").exists()


SPANS = [TokenSpan(tuple(range(3, 6 + length)), (False,) + (True,) * (length + 2)) for length in range(20)]


def finetune_all(folder: Path, kinds: Sequence[Kind]) -> None:
    """Ten steps of fine-tuning with each kind of parallelism."""
    config = finetune_config(folder, folder, folder, row_tokens=32, batch_size=4, micro_batch_size=1)
    settings = LoopConfig(save_every=0), OPTIMIZERS["adamw"]
    with open_world(torch.device("cpu")) as world:
        for kind in kinds:
            model = tiny_model("qwen3")
            parallel = parallelise(LanguageModelLoss(model), list(model.blocks), world, kind)
            optimizers = make_optimizers(model.named_parameters(), settings[1], model.config, torch.float32, world)
            objective = FinetuneObjective(parallel, PackedExamples(SPANS, 32, 0), SPANS, config)
            (folder / kind).mkdir(parents=True, exist_ok=True)
            run = RunFolder(folder / kind) if world.is_main else SilentRunFolder(folder / kind)
            Loop(objective, model, optimizers, 10, settings, run, parallel=parallel).train()


def test_two_processes_fine_tune_as_one_does(tmp_path: Path) -> None:
    finetune_all(tmp_path / "alone", ["ddp"])
    in_processes(2, finetune_all, tmp_path / "together", ["ddp", "fsdp"])
    for kind in ("ddp", "fsdp"):
        for column in ("loss", "gradient_norm", "held_out_cross_entropy"):
            expected = curve(tmp_path / "alone" / "ddp", column)
            assert curve(tmp_path / "together" / kind, column) == pytest.approx(expected, rel=1e-5)


def stop_in_the_last_process(configs: Sequence[PretrainConfig], step: int) -> list[list[str]]:
    """Train each until a signal reaches one process during `step`; the checkpoints there are then."""
    import os

    batches = pretrain.PretrainObjective.batches

    def signalled(self: pretrain.PretrainObjective, at: int) -> Sequence[Batch]:
        if at + 1 == step and os.environ["RANK"] == "1":
            stop_request.received = 15
        return batches(self, at)

    pretrain.PretrainObjective.batches = signalled  # type: ignore[method-assign]
    found = []
    with open_world(torch.device("cpu")) as world:
        for config in configs:
            with pytest.raises(Interrupted, match="SIGTERM"):
                pretrain.run_in(world, config, open_hardware(PLAIN_CPU))
            stop_request.received = None
            found.append([path.name for path in list_checkpoints(config.out / "checkpoints")])
    return found


def test_what_two_processes_saved_goes_on_in_one_and_in_four(small: Any) -> None:
    """Muon's and AdamW's moments, whole and sharded; a signal that reaches one process stops both at one step."""
    tokens = 20 * 8 * 32
    straight = pretrain.run(small("straight", "muon", tokens=tokens))
    written = [small(parallel, "muon", tokens=tokens, parallel=parallel) for parallel in ("ddp", "fsdp")]
    stopped = in_processes(2, stop_in_the_last_process, written, 10)
    assert stopped == [[["step-00000010"]] * 2] * 2
    files = list((written[1].out / "checkpoints" / "step-00000010").glob("*.safetensors"))
    assert len(files) == 2
    in_four = []
    for config, other in zip(written, ("fsdp", "ddp"), strict=True):
        copy = config.model_copy(update={"out": config.out.with_name(f"{config.out.name} in four"), "parallel": other})
        shutil.copytree(config.out, copy.out)
        in_four.append(copy)
    in_processes(4, run_all, in_four)
    run_all(written)
    for config in (*written, *in_four):
        assert curve(config.out) == pytest.approx(curve(straight), rel=1e-3), config.out
        assert len(curve(config.out)) == 20


def break_the_last_process(config: PretrainConfig, how: str) -> Any:
    """At step 5: an error of its own, or a loss that is not finite."""
    import os

    batches = pretrain.PretrainObjective.batches

    def broken(self: pretrain.PretrainObjective, step: int) -> Sequence[Batch]:
        found = batches(self, step)
        if step == 4 and os.environ["RANK"] == "1":
            if how == "error":
                raise TrineError("row 33 cannot be read")
            found[0].weights.fill_(float("nan"))
        return found

    pretrain.PretrainObjective.batches = broken  # type: ignore[method-assign]
    return pretrain.run(config)


def test_an_error_in_one_process_ends_the_other_without_a_second_message(small: Any) -> None:
    first, second = in_processes(2, break_the_last_process, small("run", "adamw"), "error")
    assert second == ("TrineError", "row 33 cannot be read")
    assert first[0] == "QuietError"


def test_a_bad_batch_of_one_process_is_skipped_by_all(small: Any) -> None:
    loop = LoopConfig(save_every=0, on_bad_step="skip")
    config = small("run", "adamw", loop=loop, tokens=10 * 8 * 32)
    assert in_processes(2, break_the_last_process, config, "nan") == [config.out, config.out]
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [row["skipped"] for row in rows if "skipped" in row] == [1] * 6
    batch = json.loads((config.out / "bad_step.json").read_text())["batch"]
    assert (batch["first_place"], len(batch["rows"]), batch["epoch"]) == (32, 8, 0)


def test_a_bad_batch_of_one_process_stops_all_and_one_says_so(small: Any) -> None:
    first, second = in_processes(2, break_the_last_process, small("run", "adamw"), "nan")
    assert first[0] == "TrineError" and "the gradient of step 5 is not finite" in first[1]
    assert second[0] == "QuietError"


def test_a_refusal_of_the_main_process_is_said_once(small: Any) -> None:
    config = small("run", "adamw")
    config.out.mkdir()
    (config.out / "metrics.jsonl").write_text('{"step": 1}\n')
    (config.out / "run.json").write_text('{"config": {}, "inputs": {}, "trine": "0"}')
    first, second = in_processes(2, pretrain.run, config)
    assert first[0] == "TrineError" and "holds a run of an earlier version of Trine (0)" in first[1]
    assert second[0] == "QuietError"


def test_rows_that_do_not_divide_are_refused_with_the_numbers() -> None:
    with pytest.raises(TrineError, match="batch_size=8 does not divide among 3 processes"):
        World(rank=0, size=3).share(8, "batch_size")
    assert [World(rank, 4).share(8, "batch_size") for rank in range(4)] == [(0, 2), (2, 2), (4, 2), (6, 2)]


def test_a_stage_for_one_process_is_refused_in_several(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: CorpusConfig
) -> None:
    from tests.several_processes import rank_environment
    from trine.config.text import TokenizerConfig
    from trine.stages.pretraining.tokenizer import run

    for name, value in rank_environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrineError, match="runs in one process and there are 2; start it without torchrun"):
        run(TokenizerConfig(out=tmp_path / "out", corpus=corpus))
