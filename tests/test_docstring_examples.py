"""The examples in docstrings run as they stand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import PLAIN_CPU
from tests.examples import GIVEN, UsageExample, namespace, usage_examples
from tests.small_corpus import write_corpus
from tests.tiny import tiny_model, tiny_score_model, tiny_tokenizer
from tests.training.line import OPTIMIZER, Line
from trine.config.corpus import CorpusConfig
from trine.data.corpus import open_corpus
from trine.model.adapter_folder import save_adapter
from trine.model.folder import save_model, save_score_model
from trine.model.gguf.writing import write_gguf
from trine.model.lora import LoraSettings, add_lora
from trine.stages.pretraining.shards import encode_corpus
from trine.training.run_folder import RunFolder

REQUIRED = {
    "Agent", "Chat", "Corpus", "Engine", "EngineWorker", "FunctionReward", "Loop", "ModelReward", "ScoreModel",
    "TextStream", "Tokenizer", "Transformer",
}  # fmt: skip
ELSEWHERE = "takes a model from the hub or a whole recipe; tests/test_python.py runs the like on small models"
SKETCHES = {
    "StageRun": "shows lines of a stage's run, which are no program of their own",
    "stage_run": "the same; tests/training/test_stage_run.py runs a stage made with it",
    "Completion": ELSEWHERE,
    "Model": ELSEWHERE,
    "Result": ELSEWHERE,
    "RecipeResult": ELSEWHERE,
}
EXAMPLES = [example for example in usage_examples() if example.name not in SKETCHES]


def test_the_classes_one_begins_with_have_examples() -> None:
    assert REQUIRED - {example.name for example in EXAMPLES} == set()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds the models which examples open."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "runs/base/model", "runs/chat/model", "runs/quickstart/pretrain/model"):
        Path(name).mkdir(parents=True)
        save_model(tiny_model(vocab_size=320, context=128), Path(name))
        tiny_tokenizer().save(Path(name))
    write_corpus(Path("texts"))
    Path("chat.jsonl").write_text('{"prompt": "What is 2 + 2?", "response": "4"}\n')
    Path("runs/reward/model").mkdir(parents=True)
    save_score_model(tiny_score_model(vocab_size=320), Path("runs/reward/model"), pad_token_id=tiny_tokenizer().pad)
    tiny_tokenizer().save(Path("runs/reward/model"))
    write_gguf(tiny_model(vocab_size=320), tiny_tokenizer(), Path("model.gguf"), "q8_0", name="model")
    return tmp_path


def given(example: UsageExample, folder: Path) -> dict[str, Callable[[], Any]]:
    """`GIVEN`, and what some examples need besides or instead."""
    adapted = tiny_model(vocab_size=320)
    add_lora(adapted, LoraSettings(rank=2, alpha=4.0), seed=0)
    if example.name == "Loop":
        line = nn.Linear(3, 1)
        run = RunFolder(folder / "run")
        run.path.mkdir()
        adamw = torch.optim.AdamW([{"params": list(line.parameters()), "peak": 0.1}])
        return GIVEN | {
            "objective": lambda: Line(line), "model": lambda: line, "optimizers": lambda: [adamw],
            "run_folder": lambda: run, "optimizer_config": lambda: OPTIMIZER,
        }  # fmt: skip
    if example.module.startswith("trine.rewards."):
        return GIVEN | {"model": GIVEN["score_model"]}
    if example.name == "lora_off":
        return GIVEN | {"model": lambda: adapted}
    if example.name == "merge_adapter":
        (folder / "adapter").mkdir()
        save_adapter(adapted, folder / "adapter", base="base")
    if example.name == "Shards":
        encode_corpus(Path("runs/shards"), open_corpus(CorpusConfig(folders=("texts",))), tiny_tokenizer(), PLAIN_CPU)
    return GIVEN


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.module}:{example.name}")
def test_an_example_runs(example: UsageExample, workshop: Path) -> None:
    example.run(namespace(example, given(example, workshop)))
