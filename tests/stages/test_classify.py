"""GPT-1's fine-tuning: four tasks, the loss L3 = L2 + lambda L1, what is trained, and what is printed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.conftest import PLAIN_CPU, QUIET_LOOP, Command, finetune_config
from tests.several_processes import in_processes
from tests.tiny import tiny_config, tiny_model
from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import OptimizerConfig
from trine.config.finetuning import FinetuneConfig
from trine.data.packing import pack
from trine.data.task_examples import divided, read_task_examples
from trine.model.classifier import TaskModel, TaskSettings
from trine.model.folder import load_task_model
from trine.records import Task, TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.finetuning.finetune import run
from trine.stages.finetuning.task_objective import Encoded, TaskLoss, TaskObjective, losses, pack_task
from trine.training.parallel import Parallel

GOOD, BAD = ("return amount", "self count"), ("class print", "while number")


def review(number: int) -> dict[str, Any]:
    """A text with a verdict among noise; its movie is one of twenty."""
    generator = np.random.default_rng(number)
    label = int(generator.integers(2))
    noise = ["the", "cat", "x", "def", "first", "second"]
    words = [*generator.choice(noise, 4), (BAD, GOOD)[label][generator.integers(2)], *generator.choice(noise, 3)]
    return {"text": " ".join(words), "label": label, "movie": f"tt{number % 20}"}


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def task_config(out: Path, model: Path, examples: Path, **changes: object) -> FinetuneConfig:
    values: dict[str, object] = {
        "task": "classify", "held_out": None, "held_out_share": 0.3, "held_out_by": "movie", "epochs": 1.5,
        "row_tokens": 64, "batch_size": 16, "micro_batch_size": 8, "loop": QUIET_LOOP,
        "optimizer": OptimizerConfig(learning_rate=0.01, learning_rate_rest=0.003, learning_rate_head=0.01),
    }  # fmt: skip
    return finetune_config(out, model, examples.parent, examples=examples, **values | changes)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("reviews") / "reviews.jsonl", [review(number) for number in range(400)])


@pytest.fixture(scope="module")
def classify_run(reviews: Path, pretrain_run: Path) -> Path:
    return run(task_config(reviews.parent / "half", pretrain_run, reviews))


# The loss


class Fixed(nn.Module):
    """What a model would compute: label probabilities .2 and .8, and text log-probabilities -1, -2, -3."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Module()
        rest = [math.log((1 - math.exp(value)) / 3) for value in (-1.0, -2.0, -3.0)]
        table = torch.tensor([[-1.0, rest[1], rest[2]], *[rest] * 3])  # [V, D]: a row of logits is a column of it
        table[1, 1], table[0, 1] = -2.0, rest[1]
        table[2, 2], table[0, 2] = -3.0, rest[2]
        self.trunk.output_weight = nn.Parameter(table)

    def forward(self, ids: torch.Tensor, **places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.zeros(*ids.shape, 3)
        hidden[0, :3] = torch.eye(3)
        return hidden, torch.tensor([[math.log(0.2), math.log(0.8)]])


def combined(objective: TaskObjective, batches: list[Any]) -> float:
    """The loss of a step, as the loop combines terms: each sum over its count over all micro-batches."""
    counts = [objective.counts(batch) for batch in batches]
    total = {name: sum(each[name] for each in counts) for name in counts[0]}
    terms = [objective.terms(batch) for batch in batches]
    return sum(float(term.value.detach()) * term.weight / total[name] for each in terms for name, term in each.items())


def test_golden_e10_the_label_loss_and_half_the_mean_over_all_text_tokens() -> None:
    """The means of the released code: 0.223144 + 0.5 * 2 = 1.223144 (with sums it would be 3.223144)."""
    # start, three text tokens (ids 0, 1, 2), extract: the last place has nothing to predict, extract is no text.
    reading = TokenSpan((3, 0, 1, 2, 3), (False, True, True, True, False))
    examples = Encoded([[reading]], [1])
    config = FinetuneConfig(out="out", model="m", examples="e", task="classify", auxiliary_weight=0.5, batch_size=1)
    module = TaskLoss(Fixed(), language_modelling=True)  # type: ignore[arg-type]
    objective = TaskObjective(Parallel(module=module), examples, Encoded([], []), config)
    assert combined(objective, list(objective.batches(0))) == pytest.approx(1.223144, abs=1e-6)
    without = config.model_copy(update={"auxiliary_weight": 0.0})
    objective = TaskObjective(Parallel(module=module), examples, Encoded([], []), without)
    assert combined(objective, list(objective.batches(0))) == pytest.approx(0.223144, abs=1e-6)


def some_examples(task: Task) -> Encoded:
    """Readings of tokens below 94, between start 94, delimiter 95 and extract 96."""
    generator = np.random.default_rng(0)

    def text() -> list[int]:
        return generator.integers(0, 94, generator.integers(2, 9)).tolist()

    def reading(*texts: list[int]) -> TokenSpan:
        ids, of_text = [94], [False]
        for place, each in enumerate(texts):
            ids, of_text = ids + [95] * (place > 0) + each, of_text + [False] * (place > 0) + [True] * len(each)
        return TokenSpan((*ids, 96), (*of_text, False))

    readings = []
    for number in range(6):
        first, others = text(), [text() for _ in range(2 + number % 2)]
        readings.append({
            "classify": [reading(first)], "entail": [reading(first, others[0])],
            "similar": [reading(first, others[0]), reading(others[0], first)],
            "choose": [reading(first, other) for other in others],
        }[task])  # fmt: skip
    return Encoded(readings, [number % 2 for number in range(6)])


def tiny_task(task: Task) -> TaskModel:
    model = TaskModel(
        tiny_model(tiny_config("llama")), TaskSettings(task, ("option",) if task == "choose" else ("a", "b"))
    )
    model.initialize_head(seed=0)
    model.classifier.weight.data.mul_(4)
    return model


@pytest.mark.parametrize("task", ["classify", "entail", "similar", "choose"])
def test_packed_readings_give_the_losses_and_gradients_of_readings_alone(task: Task) -> None:
    """And L1 is over all tokens of the texts: of every reading, each but the new tokens."""
    examples, both = some_examples(task), []
    tokens = sum(sum(reading.trained) for readings in examples.readings for reading in readings)
    for packed in (True, False):
        model = tiny_task(task)
        if packed:
            batch = pack_task(examples, range(6), 40)
            assert batch.rows.ids.shape[0] < len(batch.owners)
            loss, text, _ = losses(TaskLoss(model, language_modelling=True), batch)
        else:
            loss, text = by_hand(model, examples)
        loss, text = loss / len(examples.labels), text / tokens
        (loss + 0.5 * text).backward()
        both.append((loss.detach(), text.detach(), [p.grad for p in model.parameters()]))
    (loss, text, gradients), (other_loss, other_text, other_gradients) = both
    assert_close((loss, text), (other_loss, other_text), atol=1e-6, rtol=0, check_dtype=False)
    for one, other in zip(gradients, other_gradients, strict=True):
        assert_close(one, other, atol=1e-6, rtol=0)


def by_hand(model: TaskModel, examples: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sums by their definitions, each reading alone."""
    loss = text = torch.zeros(())
    for readings, label in zip(examples.readings, examples.labels, strict=True):
        states = []
        for reading in readings:
            hidden = model.trunk(torch.tensor([reading.ids]))[0]
            states.append(hidden[-1])
            log_probs = torch.log_softmax(hidden @ model.trunk.output_weight.T, -1)
            text = text - sum(
                log_probs[place - 1, token]
                for place, (token, of_text) in enumerate(zip(reading.ids, reading.trained, strict=True))
                if of_text
            )
        weight = model.classifier.weight
        logits = (
            (torch.stack(states) @ weight.T).squeeze(-1) if model.settings.task == "choose" else sum(states) @ weight.T
        )
        loss = loss - torch.log_softmax(logits, -1)[label]
    return loss, text


def test_the_step_does_not_depend_on_its_micro_batches() -> None:
    examples, config = some_examples("choose"), FinetuneConfig(
        out="out", model="m", examples="e", task="choose", batch_size=6, micro_batch_size=6, row_tokens=40
    )  # fmt: skip
    found = []
    for size in (6, 2, 1):
        module = TaskLoss(tiny_task("choose"), language_modelling=True)
        each = config.model_copy(update={"micro_batch_size": size})
        objective = TaskObjective(Parallel(module=module), examples, examples, each)
        found.append(combined(objective, list(objective.batches(3))))
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


# The stage


def test_a_classifier_learns_and_is_printed_beside_its_baselines(classify_run: Path, reviews: Path) -> None:
    done = read_json(classify_run / "done.json")
    figures = done["accuracies"]
    assert set(figures) == {"this model", "the most frequent label", "bag of bigrams"}
    assert figures["this model"]["accuracy"] == done["held_out_accuracy"] > 0.9
    assert figures["this model"]["low"] < figures["this model"]["accuracy"] <= figures["this model"]["high"]
    assert figures["bag of bigrams"]["accuracy"] > 0.95
    assert 0.4 < figures["the most frequent label"]["accuracy"] < 0.65
    assert figures["the most frequent label"]["p_value"] < 1e-3
    assert (
        done["examples"] + done["held_out_examples"] == 400 and done["held_out_examples"] == figures["this model"]["n"]
    )
    rows = list(read_jsonl(classify_run / "predictions.jsonl"))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / len(rows) == pytest.approx(done["held_out_accuracy"])
    assert all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-5) for row in rows)


def test_both_losses_are_logged_and_the_loss_is_their_sum(classify_run: Path) -> None:
    row = next(row for row in read_jsonl(classify_run / "metrics.jsonl") if "loss" in row)
    assert row["loss"] == pytest.approx(row["classification"] + 0.5 * row["language_modelling"], rel=1e-5)


def test_no_movie_is_in_both_parts(reviews: Path) -> None:
    train, held_out = divided(read_task_examples(reviews, "classify", "movie"), 0.3)
    assert train and held_out
    assert not {example.group for example in train} & {example.group for example in held_out}


def test_a_second_run_is_tested_against_the_first(
    classify_run: Path, reviews: Path, pretrain_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(
        task_config(reviews.parent / "none", pretrain_run, reviews, auxiliary_weight=0.0, compare_with=classify_run)
    )
    beside = read_json(made / "done.json")["accuracies"]["half (lambda 0.5)"]
    ours, theirs = (
        [row["label"] == row["predicted"] for row in read_jsonl(each / "predictions.jsonl")]
        for each in (made, classify_run)
    )
    assert beside["only_this_right"] == sum(a and not b for a, b in zip(ours, theirs, strict=True))
    assert beside["only_other_right"] == sum(b and not a for a, b in zip(ours, theirs, strict=True))
    out = capsys.readouterr().out
    assert "half (lambda 0.5)" in out and "exact McNemar" in out and "bag of bigrams" in out
    with pytest.raises(TrineError, match="other held-out examples"):
        run(task_config(reviews.parent / "x", pretrain_run, reviews, held_out_share=0.2, compare_with=classify_run))


def test_trains_head_changes_the_head_and_the_new_rows_only(reviews: Path, pretrain_run: Path) -> None:
    made = run(task_config(reviews.parent / "head", pretrain_run, reviews, trains="head", epochs=0.3))
    before = open_model(pretrain_run, open_hardware(PLAIN_CPU))[0]
    after = load_task_model(made / "model", torch.float32, torch.device("cpu"))
    for name, parameter in before.named_parameters():
        trained = after.trunk.get_parameter(name)
        assert torch.equal(trained[: len(parameter)], parameter), name
    fresh = TaskModel(before, after.settings)
    fresh.initialize_head(seed=0)
    assert not torch.equal(after.classifier.weight, fresh.classifier.weight)


def test_with_adapters_the_base_stays_and_the_head_learns(reviews: Path, pretrain_run: Path) -> None:
    lora = {"rank": 4, "learning_rate": 0.01}
    made = run(task_config(reviews.parent / "lora", pretrain_run, reviews, lora=lora, trains="everything"))
    before = open_model(pretrain_run, open_hardware(PLAIN_CPU))[0].embedding.weight
    after = load_task_model(made / "model", torch.float32, torch.device("cpu")).trunk.embedding.weight
    assert torch.equal(after[: len(before)], before)
    assert read_json(made / "done.json")["held_out_accuracy"] > 0.75


PAIRS: dict[Task, list[dict[str, Any]]] = {
    "entail": [{"premise": f"cat {n}", "hypothesis": "xy"[n % 2], "label": ("no", "yes")[n % 2]} for n in range(24)],
    "similar": [{"question1": f"cat {n}", "question2": ("x", "y")[n % 2], "is_duplicate": n % 2} for n in range(24)],
    "choose": [{"ctx": f"cat {n}", "endings": ["x", "y", "z"], "label": str(n % 3)} for n in range(24)],
}  # fmt: skip


@pytest.mark.parametrize("task", PAIRS)
def test_the_other_tasks_run_from_the_command_line(
    command: Command, pretrain_run: Path, tmp_path: Path, task: Task
) -> None:
    examples, out = written(tmp_path / "pairs.jsonl", PAIRS[task]), tmp_path / "run"
    code, printed, err = command(
        "finetune", "--task", task, "--model", pretrain_run, "--examples", examples, "--held_out", examples, "--out",
        out, "--row_tokens", 64, "--epochs", 3, "--hardware.device", "cpu", "--hardware.precision", "fp32",
    )  # fmt: skip
    assert code == 0, err
    assert "accuracy on 24 held-out examples" in printed
    config = read_json(out / "model" / "config.json")
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    assert config["num_labels"] == (1 if task == "choose" else 2)
    assert load_task_model(out / "model", torch.float32, torch.device("cpu")).settings.task == task


def test_long_texts_are_refused_cut_or_dropped_and_counted(reviews: Path, pretrain_run: Path, tmp_path: Path) -> None:
    records = [review(number) for number in range(60)]
    records[7]["text"] = "cat " * 80
    examples = written(tmp_path / "a.jsonl", records)
    small = {"held_out_share": 0.0, "epochs": 0.3}
    with pytest.raises(TrineError, match=r"a\.jsonl:8: the example has \d+ tokens .* row_tokens=64.*too_long=cut"):
        run(task_config(tmp_path / "stop", pretrain_run, examples, **small))
    cut = read_json(run(task_config(tmp_path / "cut", pretrain_run, examples, too_long="cut", **small)) / "done.json")
    assert (cut["examples"], cut["cut"], cut["dropped"]) == (60, 1, 0)
    drop = read_json(
        run(task_config(tmp_path / "drop", pretrain_run, examples, too_long="drop", **small)) / "done.json"
    )
    assert (drop["examples"], drop["cut"], drop["dropped"]) == (59, 0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "classify", "task_tokens": ("[a]",)}, "give one of them"),
        ({"task": "classify", "trains": "head", "lora": {"rank": 4}}, "trains no adapters"),
        ({"trains": "head"}, "trains belongs to a task"),
        ({"compare_with": "x"}, "compare_with belongs to a task"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(out="out", model="m", examples="e", **settings)


def test_one_label_and_an_unknown_held_out_label_are_refused(reviews: Path, pretrain_run: Path, tmp_path: Path) -> None:
    same = written(tmp_path / "same.jsonl", [{"text": f"cat {n}", "label": 1} for n in range(9)])
    with pytest.raises(TrineError, match="every example has the label '1'"):
        run(task_config(tmp_path / "a", pretrain_run, same, held_out_by=None, held_out_share=0.0))
    other = written(tmp_path / "other.jsonl", [{"text": "cat", "label": 7, "movie": "m"}])
    with pytest.raises(TrineError, match=r"other\.jsonl:1: the held-out label '7' is none"):
        run(task_config(tmp_path / "b", pretrain_run, reviews, held_out=other))


def test_weights_of_texts_in_rows_are_ones() -> None:
    """`pack` weighs what is marked 1, and neither start, delimiter nor extract."""
    reading = some_examples("entail").readings[0][0]
    batch = pack([reading], [[0]], len(reading.ids), 0.0)
    assert batch.count == sum(reading.trained)
    assert not {94, 95, 96} & set(batch.targets[batch.weights > 0].tolist())
    assert float(
        cross_entropy_sum(torch.zeros(3, 4), torch.zeros(9, 4), torch.tensor([1, 2, 3]), torch.ones(3))
    ) == pytest.approx(3 * math.log(9))


def test_the_report_shows_the_accuracy_beside_its_baselines(classify_run: Path, command: Command) -> None:
    code, out, err = command("report", classify_run.parent)
    assert code == 0, err
    assert "Fine-tuning: classify" in out and "bag of bigrams" in out and "95 % interval" in out


def test_show_prints_readings_with_their_labels_and_writes_nothing(
    reviews: Path, pretrain_run: Path, tmp_path: Path, command: Command
) -> None:
    arguments = ["--model", str(pretrain_run), "--examples", str(reviews), "--out", str(tmp_path / "out")]
    arguments += ["--task", "classify", "--row_tokens", "64", "--hardware.device", "cpu"]
    code, shown, _ = command("finetune", *arguments, "--show", "2")
    assert code == 0 and not (tmp_path / "out").exists()
    assert "row 1 of" in shown and "row 2 of" in shown and "row 3 of" not in shown
    first = next(line for line in shown.splitlines() if line.startswith("<|start|>"))
    assert first.endswith("|<|extract|>") and "⟦<|" not in shown, "the new tokens are no part of the text"
    assert f"── {reviews}:" in shown and ", label " in shown and "⟦" in first
    code, shown, _ = command("finetune", *arguments, "--show", "1", "--auxiliary_weight", "0")
    assert code == 0 and "⟦" not in shown.partition("\n")[2], "without the auxiliary loss no token is trained"


def _train_as(kind: str, folder: Path, model: Path, examples: Path) -> None:
    changes = {"epochs": 0.25, "parallel": kind, "batch_size": 16, "micro_batch_size": 4}
    run(task_config(folder / kind, model, examples, **changes))


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_train_what_one_trains(reviews: Path, pretrain_run: Path, tmp_path: Path, kind: str) -> None:
    _train_as("auto", tmp_path, pretrain_run, reviews)
    in_processes(2, _train_as, kind, tmp_path, pretrain_run, reviews)
    one, two = (
        load_task_model(tmp_path / each / "model", torch.float32, torch.device("cpu")) for each in ("auto", kind)
    )
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert_close(a, b, atol=1e-5, rtol=0, msg=name)
    accuracies = [read_json(tmp_path / each / "done.json")["held_out_accuracy"] for each in ("auto", kind)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)
