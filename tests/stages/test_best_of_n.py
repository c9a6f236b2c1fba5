"""The best of n samples as examples: the highest score wins, and only answers that ended are taught."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU, finetune_config
from trine.config.best_of_n import BestOfNConfig
from trine.records import Answer, Message
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.direct.best_of_n import best_rows, run
from trine.stages.finetuning import finetune
from trine.stages.rl.prompts import Prompt


def config_of(out: Path, model: Path, prompts: Path, **changes: Any) -> BestOfNConfig:
    values: dict[str, Any] = {
        "out": out, "model": str(model), "prompts": prompts, "reward": f"{__name__}:shortness", "samples": 4,
        "max_new_tokens": 32, "max_prompts": 12, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return BestOfNConfig(**values | changes)


def shortness(prompts: list[str], responses: list[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def test_it_writes_examples_that_finetune_learns_from(tmp_path: Path, finetune_run: Path, functions_run: Path) -> None:
    folder = run(config_of(tmp_path / "best", finetune_run, functions_run / "train.jsonl"))
    rows, done = read_jsonl(folder / "train.jsonl"), read_json(folder / "done.json")
    assert len(rows) == done["examples"] == done["prompts"] - done["none_ended"] > 0
    assert all(row["score"] == -len(row["response"]) and row["response"].strip() for row in rows)
    assert done["best_score"]["mean"] > done["score"]["mean"]
    tuned = finetune.run(
        finetune_config(tmp_path / "tuned", finetune_run, functions_run, examples=folder / "train.jsonl")
    )
    assert read_json(tuned / "done.json")["examples"] == len(rows)


def test_the_best_is_the_highest_of_those_that_ended() -> None:
    prompt = (Message("user", "?"),)
    columns = {"response": "a person's", "topic": 3}
    prompts = [Prompt((1,), prompt, columns), Prompt((2,), query="Once")]
    said = [("low", True), ("cut off", False), ("high", True), ("", True), ("also cut", False)] * 2
    answers = [Answer(prompt, text, ended) for text, ended in said]
    scores = torch.tensor([[1.0, 9.0, 2.0, 5.0, 8.0], [1.0, 9.0, 1.0, 5.0, 8.0]])
    first, second = best_rows(prompts, answers, scores)
    asked = [{"role": "user", "content": "?"}]
    assert first == {"prompt": asked, "response": "high", "topic": 3, "score": 2.0}
    assert second == {"text": "Oncelow", "score": 1.0}
    assert best_rows(prompts[:1], [Answer(prompt, "cut", False)], torch.zeros(1, 1)) == []


def test_texts_are_continued(tmp_path: Path, pretrain_run: Path, functions_run: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "def add(first, second): return first"}\n' * 8)
    given = {"form": "text", "query_tokens": (2, 4), "max_new_tokens": 96, "samples": 8}
    folder = run(config_of(tmp_path / "best", pretrain_run, texts, **given))
    assert all(row["text"].startswith("d") for row in read_jsonl(folder / "train.jsonl"))
    with pytest.raises(ValueError, match="add form=text"):
        config_of(tmp_path / "x", pretrain_run, texts, query_tokens=(2, 4))


def test_prompts_without_room_are_named(tmp_path: Path, finetune_run: Path, functions_run: Path) -> None:
    with pytest.raises(TrineError, match=r"no prompt leaves room for an answer"):
        run(config_of(tmp_path / "run", finetune_run, functions_run / "train.jsonl", max_new_tokens=128))
