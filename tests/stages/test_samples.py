"""Samples while training are what the model's own forward pass would choose, written beside the step they belong to."""

from pathlib import Path

import pytest
import torch

from tests.conftest import PLAIN_CPU, pretrain_config
from tests.tiny import tiny_model, tiny_tokenizer
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import LoopConfig
from trine.config.control import ControlConfig
from trine.config.corpus import CorpusConfig
from trine.runtime.files import read_json, read_jsonl
from trine.stages.pretraining.pretrain import run, step_count
from trine.stages.pretraining.samples import complete
from trine.training.run_folder import open_run


@torch.no_grad()
def test_each_token_is_the_likeliest(pretrain_run: Path) -> None:
    model, tokenizer = open_model(pretrain_run, open_hardware(PLAIN_CPU))
    ids = list(tokenizer.prompt_ids("def add"))
    start = len(ids)
    for _ in range(6):
        logits = model(torch.tensor([ids]))[0, -1] @ model.output_weight.T
        ids.append(int(logits.argmax()))
    rows = complete(model, tokenizer, ("def add", "import"), 6)
    assert [row["prompt"] for row in rows] == ["def add", "import"]
    assert rows[0]["text"] == tokenizer.decode(ids[start:], skip="")


@pytest.mark.parametrize("prompts, budget", [((), 8), (("def ",), 0), (("def " * 200,), 8)])
def test_nothing_to_write_is_no_error(prompts: tuple[str, ...], budget: int) -> None:
    """No prompts, no budget, or a prompt that fills the context."""
    assert complete(tiny_model("qwen3", vocab_size=320), tiny_tokenizer(), prompts, budget) == []


def test_samples_are_written_at_every_evaluation(tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path) -> None:
    changes = {"tokens": 4 * 256, "loop": LoopConfig(evaluate_every=2, save_every=0), "sample_prompts": ("import",)}
    folder = run(pretrain_config(tmp_path / "run", corpus, tokenizer_run, sample_tokens=4, **changes))
    rows = read_jsonl(folder / "samples.jsonl")
    assert [(row["step"], row["prompt"]) for row in rows] == [(2, "import"), (4, "import")]


def test_samples_after_a_checkpoint_are_written_again(tmp_path: Path) -> None:
    with open_run(ControlConfig(out=tmp_path, environment="CartPole-v1"), {}) as folder:
        for step in (1, 2):
            folder.log({"step": step})
            folder.log_samples([{"prompt": "a", "text": str(step)}])
        folder.forget_after(1)
        folder.log_samples([{"prompt": "a", "text": "again"}])
    assert [(row["step"], row["text"]) for row in read_jsonl(tmp_path / "samples.jsonl")] == [(1, "1"), (1, "again")]


def test_a_pass_is_counted_in_rows(tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path) -> None:
    config = pretrain_config(tmp_path / "run", corpus, tokenizer_run, epochs=0.5)
    assert (step_count(config), step_count(config, 80), step_count(config, 1)) == (None, 10, 1)
    results = read_json(run(config) / "done.json")
    assert results["epochs"] == pytest.approx(0.5, rel=0.1)
