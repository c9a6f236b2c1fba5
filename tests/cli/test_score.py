"""`trine score`: texts in, a line of JSON out for each; whatever opens as a reward."""

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trine
from tests.conftest import Command
from tests.encoders import write_encoder
from tests.tiny import tiny_score_model, tiny_tokenizer
from trine.model.folder import save_score_model
from trine.rewards.word_scores import WordScorer, WordTargets

FP32 = ("--hardware.device", "cpu", "--hardware.precision", "fp32")
TEXTS = ["a good film", "", "a bad film, dull", "not 好"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    texts = ["a good film", "fine film", "a bad film", "dull film"]
    targets = WordTargets(np.arange(4), np.array([1.0, 1, 0, 0]), np.ones(4))
    WordScorer.fit(texts, targets, min_count=1).save(folder, {"form": "text"})
    return folder


@pytest.fixture(scope="module")
def of_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score_model(tmp_path_factory.mktemp("text"), "text")


@pytest.fixture(scope="module")
def of_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score_model(tmp_path_factory.mktemp("chat"), "chat")


def score_model(folder: Path, form: Any) -> Path:
    model, tokenizer = tiny_score_model("gpt2", vocab_size=320), tiny_tokenizer()
    model.form, model.closed = form, "line"
    save_score_model(model, folder, pad_token_id=tokenizer.pad)
    tokenizer.save(folder)
    return folder


def scored(command: Command, *arguments: object) -> list[dict[str, Any]]:
    code, printed, message = command("score", *arguments, *FP32)
    assert code == 0, message
    return [json.loads(line) for line in printed.splitlines()]


def test_a_text_has_one_score_alone_in_a_file_in_records_in_gzip_and_in_python(
    command: Command, words: Path, of_text: Path, tmp_path: Path
) -> None:
    lines, records, packed = tmp_path / "lines.txt", tmp_path / "records.jsonl", tmp_path / "lines.txt.gz"
    lines.write_text("\n".join(TEXTS) + "\n")
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    records.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(TEXTS)))
    for model in (words, of_text):
        alone = [scored(command, "--model", model, f"--text={text}")[0]["score"] for text in TEXTS]
        for file in (lines, records, packed):
            rows = scored(command, "--model", model, "--file", file, "--batch_size", 3)
            assert [row["score"] for row in rows] == alone
            assert [row["text"] for row in rows] == TEXTS
        reward = trine.load_reward(model, device="cpu", precision="fp32")
        assert reward.score(TEXTS) == alone and reward.score(TEXTS[0]) == alone[0]
        assert len(set(alone)) >= len(TEXTS) - 1  # without a word that it knows, a text is worth the bias


def test_the_text_stands_without_a_name(command: Command, words: Path) -> None:
    assert scored(command, "--model", words, "a good film") == scored(command, words, "a good film")


@pytest.mark.parametrize("records", [False, True])
def test_standard_input_is_lines_or_records(
    command: Command, words: Path, monkeypatch: pytest.MonkeyPatch, records: bool
) -> None:
    lines = [json.dumps({"text": text}) if records else text for text in TEXTS]
    for arguments in (("-",), ("--file", "-")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
        rows = scored(command, "--model", words, *arguments)
        assert [row["text"] for row in rows] == TEXTS


def test_answers_to_prompts_and_conversations(command: Command, of_chat: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    rows = [
        {"prompt": "2 + 2?", "response": "4", "score": 7}, {"messages": turns},
        {"prompt": turns[:1], "response": "4"}, {"prompt": "2 + 2?", "response": "4\nfi", "ended": False},
        {"prompt": "2 + 2?", "response": "4\nfi"},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = scored(command, "--model", of_chat, "--file", file)
    assert found[0]["score_given"] == 7
    scores = [row["score"] for row in found]
    # cut, it is read to its last whole line, as the model's folder says
    assert scores[0] == scores[1] == scores[2] == scores[3] != scores[4]
    at_end = scored(command, "--model", of_chat, "--file", file, "--closed", "end")
    assert [row["score"] for row in at_end][:3] == scores[:3] and at_end[3]["score"] != scores[3]


def test_a_query_and_its_response_are_plain_text_to_a_reward_of_text(
    command: Command, of_text: Path, tmp_path: Path
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"prompt": "a good", "response": " film"}\n{"text": "a good film"}\n')
    first, second = scored(command, "--model", of_text, "--file", file)
    assert first["score"] == pytest.approx(second["score"], abs=1e-5)


def test_the_words_that_decided(command: Command, words: Path, of_text: Path) -> None:
    (row,) = scored(command, "--model", words, "a good film", "--explain", 2)
    assert row["words"][0][0] in ("good", "a good", "good film") and row["words"][0][1] > 0
    code, _, message = command("score", "--model", of_text, "x", "--explain", 2)
    assert code == 2 and "is of rewards by words" in message


def test_functions_and_encoders_score_too(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scoring_by_length.py").write_text(
        "def short(prompts, responses):\n    return [-len(r) for r in responses]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert scored(command, "--model", "scoring_by_length:short", "abc")[0]["score"] == -3
    encoder = write_encoder(tmp_path / "encoder", labels=2)
    assert np.isfinite(scored(command, "--model", encoder, "a good film")[0]["score"])


def test_errors_name_the_line(command: Command, of_text: Path, of_chat: Path, words: Path, tmp_path: Path) -> None:
    def refused(model: Path, content: bytes, name: str, *words: str) -> None:
        file = tmp_path / name
        file.write_bytes(content)
        code, _, message = command("score", "--model", model, "--file", file, *FP32)
        assert code == 2 and all(word.format(file=file) in message for word in words), message

    refused(words, b"good\n\xff\n", "bad.txt", "{file}:2", "not UTF-8")
    refused(words, b'{"text": "a"}\n{"title": "b"}\n', "bad.jsonl", "{file}:2", "title")
    refused(words, b'{"text": "a"}\n{"text": 3}\n', "odd.jsonl", "{file}:2", "'text' must be a text")
    refused(words, b'{"text": "a"}\n{"text": "b", "ended": 3}\n', "ended.jsonl", "{file}:2", "'ended'")
    refused(of_text, b"short\n" + b"long " * 200 + b"\n", "long.txt", "{file}:2", "more than the 64")
    refused(of_chat, b"plain\n", "plain.txt", "{file}:1", "reads conversations")
    code, _, message = command("score", "--model", words)
    assert code == 2 and "give a text to score, or --file" in message
