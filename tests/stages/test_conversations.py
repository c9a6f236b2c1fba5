"""Fine-tuning on conversations: too long ones, what is counted, rows as shown, hub data sets, and several processes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import PLAIN_CPU, Command
from tests.several_processes import in_processes
from tests.tiny import tiny_chat, tiny_model, tiny_tokenizer
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.lora import LoraConfig
from trine.data.conversations import read_conversations
from trine.data.packing import PackedExamples
from trine.model.folder import save_model
from trine.records import Message, TokenSpan
from trine.report.report import write_report
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.finetuning import finetune
from trine.stages.finetuning.examples import CUT, LAST_TOO_LONG, TOO_LONG, Examples, Renderer, read_examples_of
from trine.stages.finetuning.shown_rows import first_rows, print_rows
from trine.training.loop import Loop
from trine.training.parallel import Parallel
from trine.training.run_folder import RunFolder

ROW = 64
ADAMW = OptimizerConfig(kind="adamw", learning_rate=0.003, decay="constant", warmup_steps=2)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tokenizer.save(folder)
    model = tiny_model("qwen3", vocab_size=tokenizer.vocab_size, context=128)
    save_model(model, folder, eos_token_id=tokenizer.end_of_text, pad_token_id=tokenizer.pad)
    return folder


def conversation(*texts: str, system: str = "", **of_last: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns: list[dict[str, Any]] = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    turns[-1] |= of_last
    return {"messages": [{"role": "system", "content": system}, *turns] if system else turns}


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


def settings(out: Path, model: Path, examples: Path, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "out": out, "model": model, "examples": examples, "row_tokens": ROW, "batch_size": 2, "micro_batch_size": 1,
        "optimizer": ADAMW, "loop": LoopConfig(save_every=0),
        "hardware": PLAIN_CPU,
    }  # fmt: skip
    return FinetuneConfig(**values | changes)


def rendered(path: Path, **changes: Any) -> Examples:
    given: dict[str, Any] = {"row_tokens": ROW, "train": "all", "too_long": "stop"}
    return Renderer(tiny_chat(), **given | changes).examples(read_conversations(path))


# Which answers are trained


def test_all_answers_are_trained_or_the_last_and_never_one_that_says_no(tmp_path: Path) -> None:
    chat = tiny_chat()
    path = written(
        tmp_path / "a.jsonl", conversation("a", "b", "c", "d"), conversation("a", "b", "c", "d", train=False)
    )

    def trained(**changes: Any) -> list[str]:
        spans = rendered(path, **changes).spans
        return [
            chat.tokenizer.decode([i for i, t in zip(span.ids, span.trained, strict=True) if t], keep_special=True)
            for span in spans
        ]

    assert trained() == ["b<|im_end|>d<|im_end|>", "b<|im_end|>"]
    assert trained(train="last") == ["d<|im_end|>", "b<|im_end|>"]


def test_nothing_behind_the_last_trained_answer_is_in_the_row(tmp_path: Path) -> None:
    """It would be read for nothing: no target sees it."""
    path = written(tmp_path / "a.jsonl", conversation("a", "b", "c"), conversation("a", "b", "c", "d", train=False))
    expected = tiny_chat().example([Message("user", "a")], "b")
    assert rendered(path).spans == [expected, expected]


# Too long


LONG = "x = 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9"


def test_too_long_stops_with_file_line_and_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", conversation("a", "b"), conversation(LONG, LONG, LONG, LONG))
    with pytest.raises(
        TrineError, match=r"a\.jsonl:2: the example has \d+ tokens, more than row_tokens=64; .*too_long"
    ):
        rendered(path)


def test_cut_removes_the_oldest_exchanges_and_keeps_system_last_exchange_and_end_tokens(tmp_path: Path) -> None:
    chat = tiny_chat()
    record = conversation(LONG, "no", LONG, "b", "e", "f", system="S")
    path = written(tmp_path / "a.jsonl", record, conversation("a", "b"), conversation("a", f"{LONG} {LONG} {LONG}"))
    examples = rendered(path, too_long="cut", row_tokens=90)
    turns = [Message("system", "S"), Message("user", LONG), Message("assistant", "b"), Message("user", "e")]
    (expected,) = chat.conversation([*turns, Message("assistant", "f")], [2, 4])
    assert len(expected.ids) <= 90 < len(chat.prompt_ids(turns)) + len(chat.prompt_ids([Message("user", LONG)]))
    assert examples.spans == [expected, chat.example([Message("user", "a")], "b")]
    assert examples.account == {
        "records": 3, "forms": {"OpenAI messages": 3}, "kept": 1, "cut": {CUT: 1}, "dropped": {LAST_TOO_LONG: 1},
    }  # fmt: skip
    assert all(span.ids[-1] == chat.end_id and span.trained[-1] for span in examples.spans)


def test_cut_begins_at_a_users_turn_and_takes_as_little_as_it_can(tmp_path: Path) -> None:
    chat = tiny_chat()
    texts = [text for number in range(12) for text in (f"q{number}", f"a{number}")]
    path = written(tmp_path / "a.jsonl", conversation(*texts))
    (span,) = rendered(path, too_long="cut").spans
    text = chat.tokenizer.decode(span.ids, keep_special=True)
    first = next(number for number in range(12) if f"q{number}\n" in text or f"q{number}<" in text)
    assert text.startswith(f"<|im_start|>user\nq{first}<|im_end|>")
    messages = [Message("user" if i % 2 == 0 else "assistant", each) for i, each in enumerate(texts)]
    whole = [place for place in range(len(messages[2 * (first - 1) :])) if place % 2]
    (longer,) = chat.conversation(messages[2 * (first - 1) :], whole)
    assert len(span.ids) <= ROW < len(longer.ids)


def test_drop_leaves_out_and_counts(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", conversation("a", "b"), conversation(LONG, LONG, LONG, LONG), {"text": LONG * 9}
    )
    examples = rendered(path, too_long="drop")
    assert len(examples.spans) == 1 and examples.account["dropped"] == {TOO_LONG: 2}
    assert "1 examples kept whole, dropped 2 (longer than row_tokens)" in examples.words


def test_a_file_of_which_nothing_is_left_is_an_error(tmp_path: Path, model_folder: Path) -> None:
    path = written(tmp_path / "a.jsonl", conversation(LONG, LONG, LONG, LONG))
    with pytest.raises(TrineError, match=r"a\.jsonl: every example is longer than row_tokens=64 and was dropped"):
        finetune.run(settings(tmp_path / "out", model_folder, path, too_long="drop"))
    assert not (tmp_path / "out" / "done.json").exists()


# A run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder: Path = tmp_path_factory.mktemp("run")
    records = [conversation(f"q{i}", f"a{i}", "more", f"b{i}") for i in range(30)]
    path = written(folder / "a.jsonl", *records, conversation(LONG, LONG, LONG, LONG, LONG, "end"))
    return finetune.run(settings(folder / "out", model_folder, path, too_long="cut", held_out_share=0.25, epochs=3.0))


def test_what_became_of_the_records_is_in_done_json(run_folder: Path) -> None:
    done = read_json(run_folder / "done.json")
    train, held_out = done["account"]["train"], done["account"]["held_out"]
    assert train["records"] + held_out["records"] == 31 and held_out["records"] > 1
    assert train["kept"] + sum(train["cut"].values()) == done["examples"]
    assert train["forms"] == held_out["forms"] == {"OpenAI messages": 31}
    assert sum(part["cut"].get(CUT, 0) for part in (train, held_out)) == 1
    losses = [row["loss"] for row in read_jsonl(run_folder / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.5


def test_the_report_shows_rows_token_by_token(run_folder: Path) -> None:
    page, text = write_report(run_folder)
    html = page.read_text("utf-8")
    assert '<mark class="trained">&lt;|im_end|&gt;</mark>' in html and "row 1 of" in html
    assert "Training rows, token by token" in html and "OpenAI messages" in text


def test_show_prints_rows_with_what_is_trained_and_where_examples_begin_and_writes_nothing(
    tmp_path: Path, model_folder: Path, command: Command
) -> None:
    path = written(tmp_path / "a.jsonl", conversation("a", "b\nc"), conversation("d", "e", train=True), {"text": "t"})
    out = tmp_path / "out"
    arguments = ["--model", str(model_folder), "--examples", str(path), "--out", str(out), "--row_tokens", "64"]
    code, shown, told = command("finetune", *arguments, "--show", "2", "--hardware.device", "cpu")
    assert code == 0 and not out.exists() and "done, in" not in told
    assert "Trained tokens are in ⟦ ⟧" in shown
    assert "row 1 of 1: 3 examples" in shown
    assert "⟦b⟧|⟦↵\n⟧⟦c⟧|⟦<|im_end|>⟧" in shown
    assert all(f"── {path}:{line} ──" in shown for line in (1, 2, 3))
    assert "⟦a⟧" not in shown and "⟦d⟧" not in shown and "⟦user" not in shown


def test_in_a_terminal_trained_tokens_have_a_colour_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    examples = rendered(written(tmp_path / "a.jsonl", conversation("a", "b")))
    print_rows(first_rows(examples, PackedExamples(examples.spans, ROW, 0), tiny_tokenizer(), 1))
    shown = capsys.readouterr().out
    assert "\x1b[1;32mb\x1b[0m" in shown and "\x1b[1;32m<|im_end|>\x1b[0m" in shown and "⟦" not in shown
    assert "\x1b[1;32ma\x1b[0m" not in shown and "\x1b[33m── " in shown


def test_rows_are_shown_as_they_are_trained(tmp_path: Path) -> None:
    records = [conversation(f"q{i}" * (i % 4 + 1), f"a{i}") for i in range(20)]
    examples = rendered(written(tmp_path / "a.jsonl", *records))
    packed = PackedExamples(examples.spans, ROW, 5)
    rows = first_rows(examples, packed, tiny_tokenizer(), 2)
    assert len(rows) == 2 and len(first_rows(examples, packed, tiny_tokenizer(), 99)) == packed.rows_per_epoch
    for number, row in enumerate(rows):
        spans = [examples.spans[item] for item in packed.row(number)]
        assert [each.trained for each in row.examples] == [span.trained for span in spans]
        assert [each.place for each in row.examples] == [examples.places[item] for item in packed.row(number)]
        assert ["".join(each.tokens) for each in row.examples] == [
            tiny_tokenizer().decode(span.ids, keep_special=True) for span in spans
        ]


def test_a_template_of_ones_own_is_learned_and_saved(tmp_path: Path, model_folder: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    (tmp_path / "t.jinja").write_text(template + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    path = written(tmp_path / "a.jsonl", conversation("a", "b"))
    out = finetune.run(settings(tmp_path / "out", model_folder, path, chat_template=tmp_path / "t.jinja"))
    _, tokenizer = open_model(out, open_hardware(PLAIN_CPU))
    assert tokenizer.chat_template == (tmp_path / "t.jinja").read_text()
    (tmp_path / "t.jinja").write_text(template)
    with pytest.raises(TrineError, match=r"t\.jinja: .* writes nothing for add_generation_prompt"):
        finetune.run(settings(tmp_path / "other", model_folder, path, chat_template=tmp_path / "t.jinja"))


def test_a_data_set_of_the_hub_is_read_by_its_splits(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def records(name: str, configuration: str | None, split: str) -> Any:
        asked.append((name, configuration, split))
        return [(f"{name}:1", conversation("a", split))]

    monkeypatch.setattr("trine.stages.finetuning.examples.data_set_records", records)
    dataset = {"configuration": "small", "held_out_split": "validation"}
    config = settings(tmp_path / "out", model_folder, Path("me/chat@v1"), held_out=Path("me/chat@v1"), dataset=dataset)
    examples, held_out = read_examples_of(config, tiny_chat())
    assert asked == [("me/chat@v1", "small", "train"), ("me/chat@v1", "small", "validation")]
    assert held_out is not None and examples.places == held_out.places == ["me/chat@v1:1"]
    assert examples.spans != held_out.spans


def test_an_adapter_says_that_it_is_rank_stabilized(tmp_path: Path, model_folder: Path) -> None:
    """So that `peft` scales by alpha / sqrt(rank) too; what is saved merged is what was trained."""
    path = written(tmp_path / "a.jsonl", *(conversation(f"q{i}", f"a{i}") for i in range(8)))
    lora = LoraConfig(rank=4, alpha=8.0, rank_stabilized=True, learning_rate=0.01)
    out = finetune.run(settings(tmp_path / "out", model_folder, path, lora=lora))
    said = read_json(out / "adapter" / "adapter_config.json")
    assert (said["use_rslora"], said["r"], said["lora_alpha"]) == (True, 4, 8.0)
    hardware = open_hardware(PLAIN_CPU)
    merged, again = (
        open_model(*place)[0] for place in ((out, hardware), (model_folder, hardware, str(out / "adapter")))
    )
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(dict(again.named_parameters())[name], weight)


# The token mean


class TokenLoss(nn.Module):
    """A loss by token id."""

    def __init__(self) -> None:
        super().__init__()
        self.by_id = nn.Parameter(torch.tensor([0.0, 1.0, 4.0]))

    def forward(self, ids: Tensor, targets: Tensor, weights: Tensor, **inputs: Any) -> Tensor:
        return (self.by_id[targets] * weights).sum()


def test_e8_the_mean_is_over_the_tokens_of_the_step(tmp_path: Path) -> None:
    """E8: micro-batches of 10 and 2 trained tokens with losses 1 and 4 each: 1.5, not the mean of means, 2.5."""
    spans = [TokenSpan((1,) * 11, (False,) + (True,) * 10), TokenSpan((2,) * 11, (False,) * 9 + (True,) * 2)]
    config = settings(tmp_path, tmp_path, tmp_path, row_tokens=11)
    module = TokenLoss()
    objective = finetune.FinetuneObjective(Parallel(module=module), PackedExamples(spans, 11, 0), [], config)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    optimizer.param_groups[0]["peak"] = 0.0
    given = (config.loop, config.optimizer)
    Loop(objective, module, [optimizer], 1, given, RunFolder(tmp_path)).train()
    (row,) = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row]
    assert row["cross_entropy"] == row["loss"] == pytest.approx(1.5, abs=1e-6)


# Several processes


def curve(folder: Path, name: str) -> list[float]:
    return [row[name] for row in read_jsonl(folder / "metrics.jsonl") if name in row]


def test_two_processes_fine_tune_as_one_does_and_one_goes_on(tmp_path: Path, model_folder: Path) -> None:
    """torchrun's processes, with DDP and with FSDP2, adapters too; what two saved is continued by one."""
    records = [conversation(f"q{i}" * (i % 5 + 1), f"a{i}", "more", f"b{i}") for i in range(16)]
    path = written(tmp_path / "a.jsonl", *records)

    def config(name: str, **changes: Any) -> FinetuneConfig:
        loop = LoopConfig(save_every=100)
        return settings(tmp_path / name, model_folder, path, held_out_share=0.2, loop=loop, **changes)

    lora = LoraConfig(rank=2, rank_stabilized=True, learning_rate=0.01)
    for number, (changes, kinds) in enumerate((({}, ("ddp",)), ({"lora": lora}, ("fsdp",)))):
        alone = finetune.run(config(f"alone {number}", epochs=2.0, **changes))
        for kind in kinds:
            together = config(f"{kind} {number}", epochs=1.0, parallel=kind, **changes)
            assert in_processes(2, finetune.run, together) == [together.out] * 2
            halves = curve(together.out, "loss")
            finetune.run(together.model_copy(update={"epochs": 2.0}))
            assert len(halves) < len(curve(alone, "loss"))
            assert read_json(together.out / "run.json")["ran_on"]["processes"] == 1
            for column in ("loss", "gradient_norm"):
                assert curve(together.out, column) == pytest.approx(curve(alone, column), rel=1e-5), kind
            ours, theirs = (read_json(folder / "done.json") for folder in (together.out, alone))
            assert ours["held_out_cross_entropy"] == pytest.approx(theirs["held_out_cross_entropy"], rel=1e-5)
            assert ours["account"] == theirs["account"]
        assert (alone / "adapter").exists() == (together.out / "adapter").exists() == bool(changes)
