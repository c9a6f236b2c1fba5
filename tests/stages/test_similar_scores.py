"""Similarity given as a number: learned by squared error, told by correlations."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Command
from trine.algorithms.text_correlation import pearson
from trine.algorithms.text_labels import score_loss
from trine.data.task_examples import are_scores, read_task_examples
from trine.model.folder import load_task_model
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.finetuning.task_scores import scale_of, shared_words

WORDS = ("cat", "mat", "add", "self", "number", "print", "return", "first")


def pair(number: int) -> dict[str, Any]:
    """The more cats in both texts, the higher the score; the words are never the same."""
    draw = random.Random(number)
    cats = draw.randrange(5)
    first = ["cat"] * cats + [draw.choice(WORDS[4:6]) for _ in range(4 - cats)]
    second = ["mat"] * cats + [draw.choice(WORDS[6:]) for _ in range(4 - cats)]
    return {"sentence1": " ".join(first), "sentence2": " ".join(second), "score": cats / 2 + 0.25}


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def finetune(command: Command, model: Path, examples: Path, out: Path, *more: object) -> str:
    code, printed, err = command(
        "finetune", "--task", "similar", "--model", model, "--examples", examples, "--held_out_share", 0.3, "--out",
        out, "--row_tokens", 64, "--epochs", 6, "--optimizer.learning_rate", 0.01, "--hardware.device", "cpu",
        "--hardware.precision", "fp32", *more,
    )  # fmt: skip
    assert code == 0, err
    return printed


def test_a_head_learns_scores_and_is_told_beside_shared_words_and_another_run(
    command: Command, pretrain_run: Path, tmp_path: Path
) -> None:
    examples = written(tmp_path / "pairs.jsonl", [pair(number) for number in range(120)])
    first = finetune(command, pretrain_run, examples, tmp_path / "first", "--auxiliary_weight", 0)
    assert "correlation with the scores of" in first and "shared words" in first
    done = read_json(tmp_path / "first" / "done.json")
    rows = list(read_jsonl(tmp_path / "first" / "predictions.jsonl"))
    predicted, given = ([float(row[name]) for row in rows] for name in ("predicted", "label"))
    found = pearson(*map(torch.Tensor.numpy, map(torch.tensor, (predicted, given))))
    ours = done["correlations"]["this model"]
    assert ours["pearson"] == pytest.approx(done["held_out_pearson"], abs=1e-6) == pytest.approx(found, abs=1e-4)
    assert ours["pearson_interval"][0] > 0.5 and ours["n"] == len(rows) == done["held_out_examples"]
    assert sum(predicted) / len(rows) == pytest.approx(sum(given) / len(rows), abs=0.4), "in the units of the records"
    assert 0.4 < done["scores_were"]["deviation"] < 0.9

    second = finetune(command, pretrain_run, examples, tmp_path / "second", "--compare_with", tmp_path / "first")
    assert "first (lambda 0)" in second
    beside = read_json(tmp_path / "second" / "done.json")["correlations"]
    more = beside["this model"]["pearson"] - beside["first (lambda 0)"]["pearson"]
    assert beside["first (lambda 0)"]["this_more"] == pytest.approx(more)
    assert read_json(tmp_path / "second" / "model" / "config.json")["num_labels"] == 1
    model = load_task_model(tmp_path / "second" / "model", torch.float32, torch.device("cpu"))
    assert model.settings.labels == ("score",)
    code, _, err = command("report", tmp_path / "second")
    assert code == 0, err
    report = (tmp_path / "second" / "report.html").read_text()
    assert "Pearson" in report and "squared error, standardised" in report


def test_the_loss_is_the_squared_error() -> None:
    assert float(score_loss(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.5, 1.0]))) == pytest.approx(4.25)


def test_scores_are_standardised_and_put_back(tmp_path: Path) -> None:
    records = [{"first": "a", "second": "b", "label": label} for label in (1, 2.5, "4")]
    scale = scale_of(read_task_examples(written(tmp_path / "p.jsonl", records), "similar"))
    assert scale.mean == pytest.approx(2.5) and scale("2.5") == 0
    assert scale.original(scale("4")) == pytest.approx(4)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [((0, 1), False), (("no", "yes"), False), ((1, 2.5), True), (("1", "2.5"), True), ((0, True), False)],
)
def test_real_numbers_are_scores_and_whole_numbers_and_names_are_classes(
    tmp_path: Path, labels: tuple[Any, ...], scores: bool
) -> None:
    records = [{"first": "a", "second": "b", "label": label} for label in labels]
    assert are_scores(read_task_examples(written(tmp_path / "p.jsonl", records), "similar")) is scores


def test_names_among_scores_and_scores_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    mixed, same = (
        read_task_examples(
            written(tmp_path / name, [{"first": "a", "second": "b", "label": each} for each in labels]), "similar"
        )
        for name, labels in (("mixed.jsonl", (1.5, "alike")), ("same.jsonl", (1.5, 1.5)))
    )
    with pytest.raises(
        TrineError, match=r"mixed.jsonl:2: the label 'alike' is a name, and that of .*:1 is a score, 1.5"
    ):
        are_scores(mixed)
    with pytest.raises(TrineError, match=r"every example has the score 1.5; there is nothing to learn"):
        scale_of(same)


def test_shared_words() -> None:
    assert shared_words("The cat sat.", "the dog sat") == pytest.approx(2 / 5)
    assert shared_words("", "") == 0
