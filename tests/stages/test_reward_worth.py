"""Planted faults, through the trainer itself: what `trine reward` writes down of a model that learned them."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, QUIET_LOOP
from trine.config.base import OptimizerConfig
from trine.config.preferences import RewardConfig
from trine.report.report import write_report
from trine.runtime.files import read_json, write_jsonl
from trine.stages.preferences.reward import run

GOOD, BAD, FILLER = ("fine", "great"), ("dull", "awful"), ("the", "film", "was", "a", "story", "of")


def text(source: random.Random, good: bool, words: int) -> str:
    """Filler with a telling word in every third place."""
    telling = GOOD if good else BAD
    return " ".join(source.choice(telling if place % 3 == 1 else FILLER) for place in range(words))


def reviews(count: int, seed: int, flipped: float = 0.0, twice: bool = False) -> list[dict[str, Any]]:
    source, rows = random.Random(seed), []
    for number in range(count):
        good = source.random() < 0.5
        row = {"text": text(source, good, source.randint(4, 24)), "film": number // (2 if twice else 1)}
        for _ in range(2 if twice else 1):
            rows.append(row | {"label": int(good != (source.random() < flipped))})
    return rows


def trained(out: Path, model: Path, train: list[dict[str, Any]], held_out: list[dict[str, Any]], **changes: Any) -> Any:
    """done.json of a reward model of labels."""
    out.mkdir()
    write_jsonl(out / "train.jsonl", train)
    write_jsonl(out / "held_out.jsonl", held_out)
    values = {
        "out": out / "reward", "model": model, "labels": out / "train.jsonl", "held_out": out / "held_out.jsonl",
        "epochs": 3.0, "batch_size": 8, "micro_batch_size": 8, "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
        "optimizer": OptimizerConfig(learning_rate=0.01, learning_rate_rest=0.003),
    }  # fmt: skip
    return read_json(run(RewardConfig(**values | changes)) / "done.json")


@pytest.fixture(scope="module")
def clean_folder(tmp_path_factory: pytest.TempPathFactory, pretrain_run: Path) -> Path:
    folder = tmp_path_factory.mktemp("clean") / "a"
    trained(folder, pretrain_run, reviews(160, 0, twice=True), reviews(200, 1))
    return folder / "reward"


@pytest.fixture(scope="module")
def clean(clean_folder: Path) -> Any:
    return read_json(clean_folder / "done.json")


def test_an_honest_reward_model_has_its_figures_and_no_warning(clean: Any) -> None:
    figures = clean["worth"]["kinds"]["label"]
    assert figures["accuracy"]["interval"][0] > 0.9 and figures["items"] == 200
    assert figures["length"]["warning"] is None
    assert [row["words"] for row in figures["words_seen"]] == [8, 16, None]
    assert figures["words_model"]["figure"]["mean"] > 0.9
    assert clean["worth"]["contradictions"]["labels"]["contradictory"] == 0


def test_flipped_labels_lower_the_agreement_and_their_duplicates_are_counted(
    tmp_path: Path, pretrain_run: Path, clean: Any
) -> None:
    noisy = trained(tmp_path / "a", pretrain_run, reviews(160, 0, 0.2, twice=True), reviews(200, 1, 0.2))
    before, after = (found["worth"]["kinds"]["label"]["accuracy"] for found in (clean, noisy))
    assert after["interval"][1] < before["interval"][0]
    found = noisy["worth"]["contradictions"]["labels"]
    assert found["repeated"] > 150 and found["flipped"] == pytest.approx(0.2, abs=0.08)
    told = " ".join(write_report(tmp_path / "a")[1].split())
    assert f"Warning: reward: {found['contradictory']} of {found['repeated']} labelled texts" in told


def test_a_reward_model_that_learned_that_longer_is_better_has_the_length_line_in_red(
    tmp_path: Path, pretrain_run: Path
) -> None:
    def by_length(count: int, seed: int) -> list[dict[str, Any]]:
        source = random.Random(seed)
        lengths = [source.randint(2, 28) for _ in range(count)]
        return [{"text": text(source, source.random() < 0.5, n), "label": int(n > 15)} for n in lengths]

    done = trained(tmp_path / "a", pretrain_run, by_length(240, 0), by_length(150, 1))
    length = done["worth"]["kinds"]["label"]["length"]
    assert length["warning"] == "explained" and length["correlation"]["mean"] > 0.8
    write_report(tmp_path / "a")
    page = (tmp_path / "a" / "report.html").read_text()
    assert '<li class="warning"><strong>Warning: reward: length explains' in page


def test_another_seed_is_asked_too(tmp_path: Path, pretrain_run: Path, clean: Any, clean_folder: Path) -> None:
    done = trained(
        tmp_path / "a", pretrain_run, reviews(160, 0), reviews(200, 1), seed=2, other=str(clean_folder), epochs=2.0
    )
    agreement = done["worth"]["kinds"]["label"]["agreement"]
    assert agreement["interval"][0] > 0.5 and agreement["items"] == 100  # pairs of texts at random
    assert "agreement" not in clean["worth"]["kinds"]["label"]
