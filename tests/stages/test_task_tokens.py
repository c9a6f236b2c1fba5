"""GPT-2's task tokens: declared, added, trained in a mixture, placed by records; typed, they are text."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, QUIET_LOOP, Command, finetune_config
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import OptimizerConfig
from trine.config.finetuning import FinetuneConfig
from trine.data.task_texts import read_task_texts
from trine.records import TaskText
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.finetuning.finetune import run
from trine.tokenizer.task_format import task_prompt_ids, task_span

TRANSLATE, QUESTION, ANSWER = TOKENS = ("[翻译为中文]", "[问题]", "[答案]")
HISTORY: list[dict[str, Any]] = [
    {"prompt": "Today is a", "response": " good"},
    {"prompt": "Today is a", "task": TRANSLATE, "response": "今天是一个"},
    {"prompt": "我是小明", "slots": {QUESTION: "我是谁", ANSWER: "小明"}},
    {"text": "The cat sat on the mat."},
]


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def history_config(out: Path, model: Path, examples: Path, **changes: object) -> FinetuneConfig:
    values: dict[str, object] = {
        "task_tokens": TOKENS, "held_out": None, "epochs": 110.0, "row_tokens": 48, "batch_size": 2,
        "optimizer": OptimizerConfig(learning_rate=0.01, learning_rate_rest=0.01), "loop": QUIET_LOOP,
    }  # fmt: skip
    return finetune_config(out, model, examples.parent, examples=examples, **values | changes)


@pytest.fixture(scope="module")
def history_run(tmp_path_factory: pytest.TempPathFactory, pretrain_run: Path) -> Path:
    folder = tmp_path_factory.mktemp("history")
    return run(history_config(folder / "run", pretrain_run, written(folder / "history.jsonl", HISTORY)))


def greedy(command: Command, model: Path, prompt: str, *slots: str) -> str:
    options = ["--max_new_tokens", 24, "--temperature", 0, "--hardware.device", "cpu", "--hardware.precision", "fp32"]
    for slot in slots:
        options += ["--slots", slot]
    code, out, _ = command("generate", "--model", model, "--prompt", prompt, *options)
    assert code == 0
    return out.rstrip("\n")


def test_the_three_examples_of_the_history_are_answered_exactly(command: Command, history_run: Path) -> None:
    assert greedy(command, history_run, "Today is a") == "Today is a good"
    assert greedy(command, history_run, "Today is a", TRANSLATE) == "今天是一个"
    assert greedy(command, history_run, "我是小明", f"{QUESTION}=我是谁", ANSWER) == "小明"


def test_a_token_that_is_typed_is_text_and_asks_for_nothing(command: Command, history_run: Path) -> None:
    assert greedy(command, history_run, f"Today is a{TRANSLATE}") != f"Today is a{TRANSLATE}今天是一个"
    _, tokenizer = open_model(history_run, open_hardware(PLAIN_CPU))
    assert not {tokenizer.special[name] for name in TOKENS} & set(tokenizer.encode(f"Today is a{TRANSLATE}"))


def test_the_grown_vocabulary_goes_to_hugging_face(history_run: Path, tmp_path: Path, command: Command) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert command("export", "--model", history_run, "--out", tmp_path / "hf")[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.config.vocab_size == len(tokenizer) == 323
    ids = tokenizer("我是小明").input_ids
    ids += [tokenizer.convert_tokens_to_ids(QUESTION), *tokenizer("我是谁").input_ids]
    ids += [tokenizer.convert_tokens_to_ids(ANSWER)]
    written = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True) == "小明"


def test_the_grown_vocabulary_goes_to_gguf(history_run: Path, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "model.gguf"
    assert command("export", "--model", history_run, "--out", file, "--to", "gguf")[0] == 0
    _, tokenizer = open_model(file, open_hardware(PLAIN_CPU))
    assert [tokenizer.special[name] for name in TOKENS] == [320, 321, 322]
    assert greedy(command, file, "Today is a", TRANSLATE) == "今天是一个"
    assert greedy(command, file, "Today is a") == "Today is a good"


def test_only_answers_and_whole_texts_are_trained(history_run: Path) -> None:
    _, tokenizer = open_model(history_run, open_hardware(PLAIN_CPU))
    span = task_span(tokenizer, TaskText((("", "我是小明"), (QUESTION, "我是谁"), (ANSWER, "")), "小明"))
    trained = [token for token, learned in zip(span.ids, span.trained, strict=True) if learned]
    assert trained == [*tokenizer.encode("小明"), tokenizer.end_of_text]
    assert span.ids[: -len(trained)] == tuple(
        task_prompt_ids(tokenizer, [("", "我是小明"), (QUESTION, "我是谁"), (ANSWER, "")])
    )
    assert all(task_span(tokenizer, TaskText((("", "The cat"),))).trained)


def test_with_adapters_the_new_rows_are_learned_and_old_ones_stay(pretrain_run: Path, tmp_path: Path) -> None:
    import torch

    examples = written(tmp_path / "history.jsonl", HISTORY)
    lora = {"rank": 16, "alpha": 32.0, "learning_rate": 0.01}
    made = run(history_config(tmp_path / "run", pretrain_run, examples, lora=lora, epochs=30.0))
    before, after = (open_model(name, open_hardware(PLAIN_CPU))[0].embedding.weight for name in (pretrain_run, made))
    assert torch.equal(after[:320], before)
    assert (after[320:] - before.mean(0)).norm(dim=1).min() > (0.11 * before.std(0)).norm()
    losses = [row["loss"] for row in read_jsonl(made / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert not (made / "adapter").exists()


def test_a_second_run_goes_on_with_the_tokens_of_the_first(history_run: Path, tmp_path: Path) -> None:
    examples = written(tmp_path / "more.jsonl", HISTORY)
    made = run(history_config(tmp_path / "run", history_run, examples, task_tokens=(*TOKENS, "[new]"), epochs=1.0))
    _, tokenizer = open_model(made, open_hardware(PLAIN_CPU))
    assert [tokenizer.special[name] for name in (*TOKENS, "[new]")] == [320, 321, 322, 323]
    assert read_json(made / "model" / "config.json")["vocab_size"] == 324


def test_slots_may_be_pairs_and_columns_of_a_table_may_be_empty(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        [
            {"slots": [[QUESTION, "1"], [QUESTION, "2"], [ANSWER, "3"]]},
            {"prompt": "p", "response": "r", "task": None, "text": None, "slots": {QUESTION: None, ANSWER: "x"}},
        ],
    )
    first, second = read_task_texts(path, TOKENS)
    assert first == TaskText(((QUESTION, "1"), (QUESTION, "2"), (ANSWER, "")), "3", f"{path}:1")
    assert second == TaskText((("", "p"), (ANSWER, "x")), "r", f"{path}:2")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "task": "[翻译]", "response": "b"}, r"'\[翻译\]' is no task token; task_tokens declares"),
        ({"prompt": "a"}, "no answer to learn"),
        ({"prompt": "a", "task": TRANSLATE}, "no answer to learn"),
        ({"prompt": 3, "response": "b"}, "field 'prompt' must be a string, found 3"),
        ({"prompt": [{"role": "user", "content": "x"}], "response": "b"}, "plain text, not in a chat"),
        ({"text": "a", "response": "b"}, "has no 'response' beside it"),
        ({"prompt": "a", "slots": "x"}, "field 'slots' must be"),
        ({"prompt": "a", "slots": {ANSWER: 3}}, r"field 'slots.\[答案\]' must be a string"),
        ({"prompt": "a", "task": TRANSLATE, "slots": {ANSWER: "b"}}, "give one of them"),
        ({"messages": []}, "no answer to learn"),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "bad.jsonl", [HISTORY[0], record])
    with pytest.raises(TrineError, match=rf"bad\.jsonl:2: .*{message}"):
        read_task_texts(path, TOKENS)


def test_a_slot_of_no_token_and_slots_in_a_chat_are_refused(command: Command, history_run: Path) -> None:
    code, _, err = command("generate", "--model", history_run, "--prompt", "a", "--slots", "[nothing]=b")
    assert (code, "'[nothing]' is no special token" in err) == (2, True)
    code, _, err = command("generate", "--model", history_run, "--prompt", "a", "--slots", ANSWER, "--chat")
    assert (code, "--slots places task tokens in plain text" in err) == (2, True)
