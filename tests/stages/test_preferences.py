"""Preference pairs set what a person wrote against what the model samples, and nothing but content tells them apart."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import preferences_config
from trine.data.exchanges import read_examples
from trine.data.files import read_preferences, write_examples
from trine.records import PreferencePair
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.stages.preferences.pairs import run
from trine.tokenizer.chat_format import ChatFormat
from trine.tokenizer.tokenizer import Tokenizer


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


def form(text: str, chat: ChatFormat) -> tuple[object, ...]:
    """What could tell a side by its form alone: how it begins and ends, whether it fits, how it comes back."""
    ids = chat.response_ids(text)
    return (
        text.startswith("\n"), text != text.rstrip(), len(ids) > 48, not text,
        text != chat.text(ids), ids[-1] != chat.end_id,
    )  # fmt: skip


def test_nothing_about_its_form_tells_which_side_a_person_wrote(
    tmp_path: Path, finetune_run: Path, functions_run: Path
) -> None:
    """1.22: one's own answers end in newlines, are empty, are longer than the budget; a sample never is."""
    dressed = itertools.cycle(["{}\n", "\n\n{}", "{}  \n\n", "{}", "\r\n{}\n", "{}\n" + "    # and so on\n" * 40, "\n"])
    own = [
        replace(example, response=next(dressed).format(example.response))
        for example in read_examples(functions_run / "train.jsonl")
    ]
    write_examples(tmp_path / "own.jsonl", own)
    changes = {"examples": tmp_path / "own.jsonl", "held_out": tmp_path / "own.jsonl", "mismatched_share": 0.5}
    out = run(preferences_config(tmp_path / "out", finetune_run, functions_run, **changes))
    chat = ChatFormat(Tokenizer.load(finetune_run / "model"))
    pairs = [pair for name in ("train", "held_out") for pair in read_preferences(out / f"{name}.jsonl")]
    sides = [{form(getattr(pair, side), chat) for pair in pairs} for side in ("chosen", "rejected")]
    assert len(pairs) > 10 and sides[0] == sides[1] == {(False,) * 6}
    results = read_json(out / "done.json")
    unfit = sum(len(chat.response_ids(each.response.strip())) > 48 or not each.response.strip() for each in own)
    assert results["responses_left_out"] == unfit > len(own) // 5


def test_answers_none_of_which_a_sample_could_be_are_refused(
    tmp_path: Path, finetune_run: Path, functions_run: Path
) -> None:
    """1.22"""
    with pytest.raises(TrineError, match=r"train.jsonl: none of \d+ responses has at most max_new_tokens=1 tokens"):
        run(preferences_config(tmp_path, finetune_run, functions_run, max_new_tokens=1))


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
        run(preferences_config(tmp_path, pretrain_run, functions_run, max_new_tokens=40, temperature=0.01))
    assert not (tmp_path / "train.jsonl").exists()
