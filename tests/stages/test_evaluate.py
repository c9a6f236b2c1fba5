"""Evaluation compares two policies on the same prompts and seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import PLAIN_CPU, evaluate_config
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.data.exchanges import read_examples
from trine.data.files import write_examples
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.runtime.seeds import derive_seed
from trine.stages.evaluation.evaluate import run
from trine.tokenizer.chat_format import chat_format


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


def scored_again(policy: Path, reward: Path, prompts: Path) -> NDArray[np.float64]:
    """Scores of a policy's answers, sampled and read here, of `evaluate_config`'s settings."""
    hardware = open_hardware(PLAIN_CPU)
    (model, tokenizer), (score_model, _) = open_model(policy, hardware), open_score_model(reward, hardware)
    chat = chat_format(tokenizer)
    sampling = Sampling(16, 1.0, derive_seed(0, "evaluate"), eos_ids=chat.end_ids)
    asked = [chat.prompt_ids(example.prompt) for example in read_examples(prompts)]
    answers = Engine(model).generate(asked, sampling)
    close = ModelReward(score_model, tokenizer).closed_response
    rows = [[*answer.prompt_ids, *close(answer.response_ids, ended=answer.ended)] for answer in answers]
    with torch.no_grad():
        return np.array([float(score_model(torch.tensor([row]), torch.tensor([len(row) - 1]))) for row in rows])


def test_the_gain_is_that_of_the_answers_in_deviations_of_those_before(
    results: dict[str, Any], finetune_run: Path, ppo_run: Path, reward_run: Path, functions_run: Path
) -> None:
    """Sampled and scored here once more, one answer at a time; the figures in done.json are not used."""
    before, after = (
        scored_again(policy, reward_run, functions_run / "held_out.jsonl") for policy in (finetune_run, ppo_run)
    )
    assert before.std() > 0.01
    for name, statistic in (("mean", np.mean), ("median", np.median)):
        expected = (statistic(after) - statistic(before)) / before.std()
        assert results["reward_gain_in_deviations"][name] == pytest.approx(expected, abs=1e-3), name
    assert results["before"]["reward"]["deviation"] == pytest.approx(before.std(), rel=1e-3)


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
    with pytest.raises(TrineError, match=r"none\.jsonl holds no prompts"):
        run(evaluate_config(tmp_path / "out", shared, prompts=tmp_path / "none.jsonl"))


def test_two_models_asked_the_task_ppo_are_before_and_after(
    results: dict[str, Any], tmp_path: Path, shared: Path, ppo_run: Path
) -> None:
    """The command of all tasks gives the figures of the recipe's."""
    named = {"before": None, "after": None, "models": (shared / "finetune", shared / "ppo"), "tasks": ("ppo",)}
    assert read_json(run(evaluate_config(tmp_path, shared, **named)) / "done.json") == results
