"""Preference pairs set what a person wrote against what the model samples, and nothing but content tells them apart."""

from pathlib import Path

import pytest

from tests.conftest import preferences_config
from trine.data.files import read_examples, read_preferences
from trine.records import PreferencePair
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.stages.preferences.pairs import run


@pytest.fixture
def pairs(preferences_run: Path) -> list[PreferencePair]:
    return read_preferences(preferences_run / "train.jsonl")


def test_the_chosen_answer_is_the_persons(pairs: list[PreferencePair], functions_run: Path) -> None:
    written = {example.name: example for example in read_examples(functions_run / "train.jsonl")}
    assert pairs
    for pair in pairs:
        assert (pair.prompt, pair.chosen) == (written[pair.name].prompt, written[pair.name].response)


def test_the_rejected_answer_ended_by_itself_and_is_another(pairs: list[PreferencePair]) -> None:
    for pair in pairs:
        assert pair.rejected and pair.rejected != pair.chosen
        assert pair.chosen_ended and pair.rejected_ended
        assert pair.rejected == pair.rejected.strip("\n").rstrip()
        assert "<|im_end|>" not in pair.rejected


def test_every_prompt_is_accounted_for(preferences_run: Path, functions_run: Path) -> None:
    results = read_json(preferences_run / "done.json")
    prompts = len(read_examples(functions_run / "train.jsonl"))
    assert 0 < results["train"] + results["left_out"] <= prompts
    assert results["held_out"] == len(read_preferences(preferences_run / "held_out.jsonl"))


def test_the_seed_decides_what_is_sampled(
    tmp_path: Path, finetune_run: Path, functions_run: Path, preferences_run: Path
) -> None:
    same, other = (
        (
            run(preferences_config(tmp_path / str(seed), finetune_run, functions_run, seed=seed)) / "train.jsonl"
        ).read_bytes()
        for seed in (0, 1)
    )
    assert same == (preferences_run / "train.jsonl").read_bytes() != other


def test_how_many_rows_go_together_changes_nothing(
    tmp_path: Path, finetune_run: Path, functions_run: Path, preferences_run: Path
) -> None:
    run(preferences_config(tmp_path, finetune_run, functions_run, rows=5))
    assert read_preferences(tmp_path / "train.jsonl") == read_preferences(preferences_run / "train.jsonl")


def test_a_number_of_prompts_is_chosen_by_seed(tmp_path: Path, finetune_run: Path, functions_run: Path) -> None:
    results = read_json(
        run(preferences_config(tmp_path, finetune_run, functions_run, max_prompts=12, samples=2)) / "done.json"
    )
    assert 0 < results["train"] + results["left_out"] <= 24


def test_a_budget_in_which_nothing_ends_is_refused(tmp_path: Path, pretrain_run: Path, functions_run: Path) -> None:
    with pytest.raises(TrineError, match="no sampled answer ended within the budget; raise max_new_tokens"):
        run(preferences_config(tmp_path, pretrain_run, functions_run, max_new_tokens=1))
    assert not (tmp_path / "train.jsonl").exists()
