"""Evaluation compares two policies on the same prompts and seeds."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import evaluate_config
from trine.data.files import read_examples, write_examples
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.evaluation.compare_policies import run


@pytest.fixture(scope="module")
def results(shared: Path, ppo_run: Path) -> dict[str, Any]:
    return dict(read_json(run(evaluate_config(shared / "evaluate", shared)) / "done.json"))


def test_every_figure_is_there_for_before_and_after(results: dict[str, Any], functions_run: Path) -> None:
    prompts = len(read_examples(functions_run / "held_out.jsonl"))
    assert results["prompts"] == prompts
    for side in ("before", "after"):
        assert set(results[side]) >= {"reward", "held_out_reward", "parsing", "distinct_2", "length", "ended_share"}
        assert results[side]["parsing"]["ended"] + results[side]["parsing"]["cut"] == prompts
        assert 0 <= results[side]["parsing"]["share"] <= 1
        assert len(results["scores"]["reward"][side]) == prompts


def test_the_gain_is_counted_in_deviations_of_before(results: dict[str, Any]) -> None:
    gain = results["after"]["reward"]["mean"] - results["before"]["reward"]["mean"]
    expected = gain / results["before"]["reward"]["deviation"]
    assert results["reward_gain_in_deviations"]["mean"] == pytest.approx(expected)


def test_samples_are_shown_side_by_side(results: dict[str, Any], shared: Path) -> None:
    samples = read_jsonl(shared / "evaluate" / "samples.jsonl")
    assert len(samples) == 3
    for sample in samples:
        assert {"prompt", "name", "before", "after"} <= sample.keys()
        assert {"text", "reward", "held_out_reward"} == sample["before"].keys()


def test_a_policy_against_itself_gains_nothing(tmp_path: Path, shared: Path, ppo_run: Path) -> None:
    config = evaluate_config(tmp_path, shared, after=shared / "finetune")
    same = read_json(run(config) / "done.json")
    assert same["before"] == same["after"]
    assert same["kl"] == 0.0
    assert same["reward_gain_in_deviations"] == {"mean": 0.0, "median": 0.0}


def test_one_single_prompt_is_enough(tmp_path: Path, shared: Path, ppo_run: Path, functions_run: Path) -> None:
    write_examples(tmp_path / "one.jsonl", read_examples(functions_run / "held_out.jsonl")[:1])
    results = read_json(run(evaluate_config(tmp_path / "out", shared, prompts=tmp_path / "one.jsonl")) / "done.json")
    assert results["prompts"] == 1


def test_no_prompts_are_refused(tmp_path: Path, shared: Path, ppo_run: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(TrineError, match=r"none\.jsonl holds no prompts to evaluate on"):
        run(evaluate_config(tmp_path / "out", shared, prompts=tmp_path / "none.jsonl"))
