"""The best of n samples as examples: the highest score wins, and only answers that ended are taught."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU, finetune_config
from tests.tiny import tiny_tokenizer
from trine.config.best_of_n import BestOfNConfig
from trine.config.dpo import DpoConfig
from trine.data.conversations import conversations_of
from trine.records import Answer, Message
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.direct import dpo
from trine.stages.direct.best_of_n import best_rows, pair_rows, run, thumb_rows
from trine.stages.finetuning import finetune
from trine.stages.rl.prompts import Prompt
from trine.tokenizer.chat_format import text_span


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


def test_pairs_are_the_best_and_the_worst_and_thumbs_are_up_above_the_mean() -> None:
    prompt = (Message("user", "?"),)
    asked = {"prompt": [{"role": "user", "content": "?"}], "topic": 3}
    prompts = [Prompt((1,), prompt, {"topic": 3, "label": "x"}), Prompt((2,), prompt)]
    said = [("low", True), ("cut off", False), ("high", True), ("middle", True)]
    answers = [Answer(prompt, text, ended) for text, ended in said * 2]
    scores = torch.tensor([[1.0, 9.0, 4.0, 2.0], [5.0, 9.0, 5.0, 5.0]])
    (pair,) = pair_rows(prompts, answers, scores)
    assert pair == {**asked, "chosen": "high", "score_chosen": 4.0, "rejected": "low", "score_rejected": 1.0}
    thumbs = [(row["response"], row["label"], row["score"]) for row in thumb_rows(prompts, answers, scores)]
    assert thumbs == [("low", False, 1.0), ("high", True, 4.0), ("middle", False, 2.0)], "of equal scores none"
    kept = pair_rows(prompts, answers, scores, keep_cut=True)
    assert (kept[0]["chosen"], kept[0]["chosen_ended"], kept[0]["rejected"]) == ("cut off", False, "low")
    assert thumb_rows(prompts, answers, scores, keep_cut=True)[1]["ended"] is False


def test_texts_that_are_all_cut_are_learned_without_an_end(tmp_path: Path, pretrain_run: Path) -> None:
    """Best of n, DPO and KTO on texts of a fixed length, as PPO has them."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"def add_{n}(first, second): return {n}"}) + "\n" for n in range(12)))
    given = {"form": "text", "query_tokens": (4, 8), "max_new_tokens": 6, "samples": 4, "keep_cut": True}
    folder = run(config_of(tmp_path / "best", pretrain_run, texts, **given))
    cut = [row for row in read_jsonl(folder / "train.jsonl") if row.get("ended") is False]
    assert cut
    tuned = finetune.run(
        finetune_config(tmp_path / "tuned", pretrain_run, tmp_path, examples=folder / "train.jsonl", held_out=None)
    )
    assert read_json(tuned / "done.json")["examples"] > 0
    for loss, file in (("dpo", "pairs"), ("kto", "thumbs")):
        direct = dpo.run(
            DpoConfig(
                out=tmp_path / loss, model=str(pretrain_run), preferences=folder / f"{file}.jsonl", form="text",
                loss=loss, batch_size=4, hardware=PLAIN_CPU,
            )
        )  # fmt: skip
        assert (direct / "model").is_dir()
    with pytest.raises(ValueError, match="keep_cut is of plain text"):
        config_of(tmp_path / "x", pretrain_run, texts, keep_cut=True)


def test_a_text_that_did_not_end_has_no_end_token() -> None:
    tokenizer = tiny_tokenizer()
    whole, cut = (text_span(tokenizer, "add first", ended=ended) for ended in (True, False))
    assert whole.ids[:-1] == cut.ids and whole.ids[-1] == tokenizer.end_of_text and len(cut.trained) == len(cut.ids)
    records = [("f:1", {"text": "a", "ended": said}) for said in (True, False, "false", "no")]
    found = [conversations_of([record], "f").items[0].ended for record in records]
    assert found == [True, False, False, False]


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
