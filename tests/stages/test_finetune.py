"""Fine-tuning learns the answers, each example once an epoch."""

from pathlib import Path

import pytest

from tests.conftest import PLAIN_CPU, finetune_config
from trine.catalog.loading import open_hardware, open_model
from trine.data.exchanges import read_examples
from trine.records import TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.finetuning.finetune import PackedExamples, run
from trine.tokenizer.bpe import TURN_END


def test_the_loss_on_answers_falls(finetune_run: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(finetune_run / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert read_json(finetune_run / "done.json")["held_out_cross_entropy"] < losses[0]


def test_every_example_comes_once_an_epoch_in_another_order_each_time() -> None:
    spans = [TokenSpan((1,) * (3 + index % 7), (True,) * (3 + index % 7)) for index in range(40)]
    packed = PackedExamples(spans, 16, seed=1)
    epochs = [
        [tuple(packed.row(epoch * packed.rows_per_epoch + place)) for place in range(packed.rows_per_epoch)]
        for epoch in range(3)
    ]
    for rows in epochs:
        assert sorted(item for row in rows for item in row) == list(range(40))
    assert len({tuple(rows) for rows in epochs}) == 3


def test_any_row_can_be_asked_for_first() -> None:
    spans = [TokenSpan((1,) * (3 + index % 7), (True,) * (3 + index % 7)) for index in range(40)]
    late = PackedExamples(spans, 16, seed=1)
    walked = PackedExamples(spans, 16, seed=1)
    rows = [walked.row(index) for index in range(40)]
    assert [late.row(index) for index in (39, 3, 25)] == [rows[39], rows[3], rows[25]]


def test_the_model_opens_with_its_tokenizer_and_chat_template(finetune_run: Path) -> None:
    model, tokenizer = open_model(finetune_run, open_hardware(PLAIN_CPU))
    assert model.config.vocab_size == tokenizer.vocab_size
    config = read_json(finetune_run / "model" / "config.json")
    assert config["eos_token_id"] == [tokenizer.special[TURN_END], tokenizer.end_of_text]
    assert config["pad_token_id"] == tokenizer.pad
    assert "chat_template" in read_json(finetune_run / "model" / "tokenizer_config.json")


def test_changed_examples_are_noticed(tmp_path: Path, pretrain_run: Path, functions_run: Path) -> None:
    examples = tmp_path / "mine.jsonl"
    examples.write_text('{"prompt": "x", "response": "y"}\n')
    config = finetune_config(
        tmp_path / "out", pretrain_run, functions_run, examples=examples, held_out=None, epochs=1.0
    )
    run(config)
    assert len(read_examples(examples)) == 1
    examples.write_text('{"prompt": "x", "response": "z"}\n')
    with pytest.raises(TrineError, match="examples: its content has changed"):
        run(config)


def test_no_examples_are_refused(tmp_path: Path, pretrain_run: Path, functions_run: Path) -> None:
    examples = tmp_path / "none.jsonl"
    examples.write_text("\n")
    with pytest.raises(TrineError, match=r"none\.jsonl holds no examples"):
        run(finetune_config(tmp_path / "out", pretrain_run, functions_run, examples=examples))
