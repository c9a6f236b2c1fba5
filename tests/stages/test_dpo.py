"""Whole runs of `trine dpo`: from pairs and labels, chat and text, full and LoRA; stopped and gone on with."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU, Command, finetune_config
from tests.stages.direct_items import dpo_config
from tests.tiny import tiny_chat
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import LoopConfig
from trine.config.dpo import DpoConfig
from trine.config.lora import LoraConfig
from trine.data.files import read_preferences
from trine.data.judgement_texts import Reading
from trine.data.judgements import judgements_of
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.direct import dpo
from trine.stages.direct.dpo import run
from trine.stages.direct.items import ItemWriter
from trine.stages.direct.log_probs import AnswerLogProbs, answer_log_probs
from trine.stages.direct.objective import DirectObjective
from trine.stages.finetuning import finetune
from trine.tokenizer.chat_format import chat_format
from trine.training import stage_run

LOG_2 = 0.6931471805599453


@pytest.fixture
def pairs(tmp_path: Path, preferences_run: Path) -> Path:
    """Training pairs in a folder of their own, since the reference's log-probabilities are kept beside them."""
    path = tmp_path / "pairs" / "pairs.jsonl"
    path.parent.mkdir()
    path.write_bytes((preferences_run / "train.jsonl").read_bytes())
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_the_command_learns_what_is_preferred(
    command: Command, tmp_path: Path, finetune_run: Path, pairs: Path
) -> None:
    out = tmp_path / "run"
    options = {
        "epochs": 6,
        "batch_size": 4,
        "optimizer.learning_rate": 0.001,
        "held_out": pairs,
        "hardware.device": "cpu",
    }
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    code, _, words = command("dpo", "--model", finetune_run, "--preferences", pairs, "--out", out, *given)
    assert code == 0, words
    rows, done = rows_of(out), read_json(out / "done.json")
    assert rows[0]["loss"] == pytest.approx(LOG_2, abs=1e-6) and rows[0]["margin"] == 0
    assert rows[-1]["loss"] < 0.5 and rows[-1]["accuracy"] == 1
    assert done["held_out_accuracy"] == 1 and done["held_out_margin"] > 0.5
    assert done["account"]["train"]["kept"] == done["items"] == len(read_preferences(pairs))
    _, tokenizer = open_model(str(out), open_hardware(PLAIN_CPU))
    assert chat_format(tokenizer).end_id in read_json(out / "model" / "generation_config.json")["eos_token_id"]
    assert len(list(pairs.parent.glob(".pairs.jsonl.reference-*"))) == 1


@pytest.mark.parametrize("loss", ["dpo", "kto", "orpo"])
def test_a_stopped_run_ends_in_the_same_bytes(
    tmp_path: Path, finetune_run: Path, pairs: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> Any:
        loop, lora = LoopConfig(save_every=0), LoraConfig(rank=4 if loss == "dpo" else 0, learning_rate=0.001)
        return dpo_config(
            tmp_path / name, finetune_run, pairs, loss=loss, epochs=2.0, loop=loop, lora=lora, held_out=pairs
        )

    whole = run(config("whole"))
    batches = DirectObjective.batches

    def stopping(self: DirectObjective, step: int) -> Sequence[Any]:
        if step == 4:
            stop_request.received = signal.SIGTERM
        return batches(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(DirectObjective, "batches", stopping)
        patch.setattr(stop_request, "received", None)
        with pytest.raises(Interrupted):
            run(config("stopped"))
    for kept in pairs.parent.glob(".*reference*"):  # it is not needed to go on
        for file in kept.iterdir():
            file.unlink()
    run(config("stopped"))
    assert weights_of(tmp_path / "stopped") == weights_of(whole)
    ours, theirs = (
        [
            {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")}
            for row in rows_of(tmp_path / name)
        ]
        for name in ("whole", "stopped")
    )
    assert ours == theirs


@pytest.mark.parametrize("rank", [0, 4])
def test_at_a_learning_rate_of_nothing_nothing_moves(
    tmp_path: Path, finetune_run: Path, pairs: Path, rank: int
) -> None:
    changes = {"lora": LoraConfig(rank=rank, learning_rate=1e-30), "epochs": 2.0}
    config = dpo_config(tmp_path / "run", finetune_run, pairs, **changes)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 1e-30})})
    folder = run(config)
    assert [row["loss"] for row in rows_of(folder)] == pytest.approx([LOG_2] * len(rows_of(folder)), abs=1e-9)
    assert {row["margin"] for row in rows_of(folder)} == {0.0}
    before, after = (open_model(str(each), open_hardware(PLAIN_CPU))[0].state_dict() for each in (finetune_run, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory, pretrain_run: Path, functions_run: Path) -> Path:
    """Fine-tuned by LoRA, far enough from its base to be told apart."""
    out = tmp_path_factory.mktemp("lora") / "run"
    lora = LoraConfig(rank=4, learning_rate=0.01)
    return finetune.run(finetune_config(out, pretrain_run, functions_run, lora=lora, epochs=2.0))


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("named", ["run", "adapter folder", "base and adapter"])
def test_the_reference_of_a_lora_fine_tuned_model_is_that_model(
    tmp_path: Path, lora_run: Path, pretrain_run: Path, pairs: Path, rank: int, named: str
) -> None:
    """LlamaFactory#8459, #8974, trl#6591: with the adapters off theirs was the base, before fine-tuning."""
    model = {"run": lora_run, "adapter folder": lora_run / "adapter"}.get(named, pretrain_run)
    adapter = str(lora_run) if named == "base and adapter" else None
    held_out = {"held_out": pairs, "epochs": 0.2, "adapter": adapter, "lora": LoraConfig(rank=rank)}
    folder = run(dpo_config(tmp_path / "run", model, pairs, **held_out))
    first = rows_of(folder)[0]
    assert first["loss"] == pytest.approx(LOG_2, abs=1e-6) and first["margin"] == 0 == first["chosen_log_ratio"]
    sums = {each: chosen_sums(each, pairs) for each in (lora_run, pretrain_run)}
    (kept,) = pairs.parent.glob(".pairs.jsonl.reference-*")
    from safetensors.torch import load_file

    found = load_file(kept / "log_probs.safetensors")["answers"][:, 0]
    assert float((found - sums[lora_run]).abs().max()) < 1e-3
    assert float((found - sums[pretrain_run]).abs().mean()) > 1
    if rank:
        assert (folder / "adapter" / "adapter_model.safetensors").exists()


@torch.no_grad()
def chosen_sums(run_folder: Path, pairs: Path) -> torch.Tensor:
    """Log-probabilities of the chosen answers under the model of a run."""
    model, _ = open_model(str(run_folder), open_hardware(PLAIN_CPU))
    chat = chat_format(open_model(str(run_folder), open_hardware(PLAIN_CPU))[1])
    groups = [(chat.prompt_ids(pair.prompt), [chat.response_ids(pair.chosen)]) for pair in read_preferences(pairs)]
    return answer_log_probs(AnswerLogProbs(model), groups, torch.device("cpu"))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_kto_learns_from_thumbs_and_proposes_weights(
    tmp_path: Path, finetune_run: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K3: 12 good answers and 4 bad ones."""
    found = read_preferences(pairs)[:12]
    rows = [{"prompt": pair.prompt[0].content, "response": pair.chosen, "label": True} for pair in found]
    rows += [{"prompt": pair.prompt[0].content, "completion": pair.rejected, "label": False} for pair in found[:4]]
    labels = write(tmp_path / "labels.jsonl", rows)
    folder = run(dpo_config(tmp_path / "run", finetune_run, labels, loss="kto", epochs=2.0))
    assert read_json(folder / "done.json")["class_weights"] == [1.0, 2.25]
    rows = rows_of(folder)
    assert all(row["reference_point"] >= 0 for row in rows) and rows[0]["reference_point"] == 0
    assert "12 good answers of weight 1, 4 bad ones of weight 2.25" in capsys.readouterr().err
    with pytest.raises(TrineError, match="labels are learned from by loss=kto"):
        run(dpo_config(tmp_path / "dpo", finetune_run, labels))
    one = write(tmp_path / "one.jsonl", [{**rows_of_labels(labels)[0], "response": text} for text in ("a", "b")])
    with pytest.raises(TrineError, match=r"loss=kto needs answers to two prompts or more"):
        run(dpo_config(tmp_path / "one", finetune_run, one, loss="kto"))


def rows_of_labels(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path)


def test_weights_outside_the_papers_range_are_said(
    tmp_path: Path, finetune_run: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"loss": "kto", "desirable_weight": 1, "undesirable_weight": 5, "epochs": 0.2}
    folder = run(dpo_config(tmp_path / "run", finetune_run, pairs, **given))
    assert read_json(folder / "done.json")["class_weights"] == [1, 5]
    assert "is outside [1, 4/3]" in capsys.readouterr().err


def test_records_too_long_are_refused_cut_or_dropped_and_answers_keep_their_ends(
    tmp_path: Path, finetune_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "word " * 40
    turns = [
        {"role": "user", "content": long},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "so?"},
    ]
    rows: list[dict[str, Any]] = [
        {"prompt": "one", "chosen": "a", "rejected": "b"}, {"prompt": turns, "chosen": "a", "rejected": "b"},
        {"prompt": "two", "chosen": long, "rejected": "b"}, {"prompt": "same", "chosen": "a", "rejected": "a"},
        {"prompt": "three", "chosen": "c", "rejected": "d"},
    ]  # fmt: skip
    records = write(tmp_path / "records.jsonl", rows)
    with pytest.raises(TrineError, match=r"records\.jsonl:2 has \d+ tokens, more than max_tokens=60"):
        run(dpo_config(tmp_path / "stop", finetune_run, records, max_tokens=60))
    accounts = {}
    for too_long in ("cut", "drop"):
        folder = run(dpo_config(tmp_path / too_long, finetune_run, records, max_tokens=60, too_long=too_long))
        accounts[too_long] = read_json(folder / "done.json")["account"]["train"]
    same = {"both answers the same": 1}
    assert accounts["cut"] == {
        "records": 5, "kept": 2, "cut": {"beginning of the prompt left out": 1},
        "dropped": {"answer and last turn longer than max_tokens": 1} | same,
    }  # fmt: skip
    assert accounts["drop"] == {"records": 5, "kept": 2, "cut": {}, "dropped": {"longer than max_tokens": 2} | same}


def test_plain_text_is_continued(tmp_path: Path, pretrain_run: Path) -> None:
    texts = [{"prompt": f"def f{n}(", "chosen": "x): return x", "rejected": "): pass"} for n in range(8)]
    records = write(tmp_path / "texts.jsonl", texts)
    config = dpo_config(tmp_path / "run", pretrain_run, records, form="text", epochs=4.0)
    folder = run(config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 0.001})}))
    assert rows_of(folder)[-1]["accuracy"] == 1
    chats = write(tmp_path / "chats.jsonl", [{**texts[0], "prompt": [{"role": "system", "content": "x"}] * 2}])
    with pytest.raises(TrineError, match="the record is a conversation, and form=text reads plain text"):
        run(dpo_config(tmp_path / "chat", pretrain_run, chats, form="text"))


def items_from(rows: list[dict[str, Any]], kind: Any, *, soft: bool = False) -> tuple[list[Any], dict[str, Any]]:
    judgements = judgements_of(
        [(f"x:{n}", row) for n, row in enumerate(rows, 1)], ("label", "pair", "ranking"), Reading()
    )
    found = ItemWriter(tiny_chat(), 64, "stop", kind, soft=soft).items(judgements, Path("x"))
    return found.items, found.account


def test_rankings_ties_and_soft_labels_are_learned_where_the_loss_can() -> None:
    tie = {"prompt": "a", "chosen": "b", "rejected": "c", "tie": True}
    rows = [{"prompt": "a", "answers": ["b", "c", "d"], "ranking": [[2], [0, 1]]}, tie]
    hard, account = items_from(rows, "pairs")
    assert len(hard) == 2 and account["dropped"] == {"a tie, which loss=dpo alone learns from": 1}
    soft, _ = items_from([*rows, {**tie, "tie": False, "probability": 0.8}], "pairs", soft=True)
    assert [item.probability for item in soft] == [1, 1, 0.5, 0.5, 0.8]
    labels, _ = items_from(rows[:1], "labels")
    assert [item.desirable for item in labels] == [True, False, False]
    with pytest.raises(TrineError, match="x:1: the pair has a probability, which loss=dpo alone learns from"):
        items_from([{**tie, "tie": False, "probability": 0.8}], "pairs")
    weighted, account = items_from([{**rows[0], "weight": 2}, {**tie, "tie": False, "weight": 0}], "pairs")
    assert [item.weight for item in weighted] == [1.0, 1.0] and account["dropped"] == {"weight 0": 1}


def test_a_share_of_the_records_is_held_out_and_data_sets_of_the_hub_are_read(
    tmp_path: Path, finetune_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(20)]
    monkeypatch.setattr(dpo, "is_hub_data_set", lambda place: True)
    monkeypatch.setattr(dpo, "data_set_records", lambda name, *_: [(f"{name}:{n}", row) for n, row in enumerate(rows)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage_run, "input_fingerprint", lambda name, value: "same")
    folder = run(dpo_config(tmp_path / "run", finetune_run, Path("owner/pairs"), held_out_share=0.3, batch_size=16))
    done = read_json(folder / "done.json")
    train, held_out = (done["account"][name]["kept"] for name in ("train", "held_out"))
    assert train + held_out == 20 and 2 <= held_out <= 12 and "held_out_margin" in done
    assert len(list((folder / "reference").glob(".pairs*.reference-*"))) == 2 and not (tmp_path / "owner").exists()
    with pytest.raises(ValueError, match="give one of them"):
        dpo_config(tmp_path / "both", finetune_run, tmp_path, held_out=tmp_path, held_out_share=0.3)


@pytest.mark.parametrize(("written", "means"), [("false", "off"), (True, "on"), ("auto", "auto")])
def test_a_shared_prompt_as_earlier_runs_wrote_it(written: Any, means: str) -> None:
    config = DpoConfig(out=Path("x"), model="m", preferences=Path("p"), share_prompt=written)
    assert config.share_prompt == means
