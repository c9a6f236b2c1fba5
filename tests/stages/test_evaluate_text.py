"""Evaluation of policies of plain text: the figures of labels, perplexity under the policy before, a person's text."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU
from trine.catalog.loading import open_hardware, open_model
from trine.config.evaluation import EvaluateConfig
from trine.config.loading import validated
from trine.config.rl import PpoConfig
from trine.records import Rollout
from trine.report.outcome import changes_table, rewards_table, samples_section
from trine.report.run_reader import read_recipe_run
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.evaluation.compare_policies import perplexity, summed_log_probs
from trine.stages.evaluation.evaluate import run
from trine.stages.rl.ppo import run as run_ppo

TEXTS = [f"import number{n} as n\nprint(n, number{n}, {n})\n" for n in range(24)]
BUDGET = 6


def letters(prompts: list[str], responses: list[str]) -> list[float]:
    """More letters than other characters is positive."""
    return [sum(1 if letter.isalpha() else -1 for letter in response) / 4 for response in responses]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pretrain_run: Path) -> Path:
    """A recipe's folder: PPO on plain text, and its evaluation."""
    out = tmp_path_factory.mktemp("text")
    (out / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    shared: dict[str, Any] = {
        "prompts": out / "texts.jsonl", "form": "text", "query_tokens": (2, 4), "max_new_tokens": BUDGET,
        "reward": "tests.stages.test_evaluate_text:letters", "hardware": PLAIN_CPU,
    }  # fmt: skip
    policy = run_ppo(
        PpoConfig(
            out=out / "ppo", model=str(pretrain_run), iterations=3, batch_size=8, minibatch_size=8, micro_batch_size=8,
            optimizer={"kind": "adamw", "learning_rate": 0.01}, epochs=1, **shared,
        )
    )  # fmt: skip
    run(
        EvaluateConfig(
            out=out / "evaluate", before=str(pretrain_run), after=str(policy), held_out_reward=shared["reward"],
            shown=3, samples=2, max_prompts=20, **shared,
        )
    )  # fmt: skip
    return out


def test_figures_of_labels_are_those_of_the_scores(folder: Path) -> None:
    results = read_json(folder / "evaluate" / "done.json")
    assert results["prompts"] == 2 * 20
    for side in ("before", "after", "person"):
        scores = results["scores"]["held_out_reward"][side]
        found = results[side]["held_out_reward"]
        assert len(scores) == 40
        assert found["positive_share"] == sum(score > 0 for score in scores) / 40
        assert found["half_score"]["mean"] == pytest.approx(found["mean"] / 2)
        assert found["half_score"]["median"] == pytest.approx(found["median"] / 2)
        assert "parsing" not in results[side]
        assert results[side]["length"] <= BUDGET
    assert 0 < results["before"]["reward"]["positive_share"] < 1
    assert results["kl"] > 0
    assert "completions" not in results


def test_perplexity_is_that_of_the_policy_before(pretrain_run: Path) -> None:
    """exp of the mean of -log p over response tokens, from whole logits of one row at a time."""
    model, tokenizer = open_model(pretrain_run, open_hardware(PLAIN_CPU))
    rollouts = [
        Rollout((5, 6), (7, 8, 9), (0.0,) * 3, "length"),
        Rollout((4,), (3, 2), (0.0,) * 2, "eos", written=(True, False)),
    ]
    expected = []
    with torch.no_grad():
        for one, places in zip(rollouts, ((0, 1, 2), (0,)), strict=True):
            ids = torch.tensor([one.prompt_ids + one.response_ids])
            log_probs = torch.log_softmax(model(ids)[0].float() @ model.output_weight.float().T, -1)
            first = len(one.prompt_ids) - 1
            expected.append([float(log_probs[first + place, one.response_ids[place]]) for place in places])
    sums = summed_log_probs(model, rollouts, 1.0, tokenizer.pad)
    assert sums.tolist() == pytest.approx([sum(each) for each in expected], abs=1e-4)
    assert perplexity(model, rollouts, tokenizer.pad) == pytest.approx(math.exp(-sum(map(sum, expected)) / 4), rel=1e-4)


def test_samples_are_queries_with_what_each_side_went_on_with(folder: Path) -> None:
    samples = read_jsonl(folder / "evaluate" / "samples.jsonl")
    assert len(samples) == 3
    for sample in samples:
        assert any(text.startswith(sample["prompt"]) for text in TEXTS)
        assert any((sample["prompt"] + sample["person"]["text"].removesuffix(" …")) in text for text in TEXTS)
        assert sample["before"]["text"]


def test_the_report_shows_shares_halves_and_perplexity_and_no_parsing(folder: Path) -> None:
    recipe = read_recipe_run(folder)
    evaluated = recipe.of_stage("evaluate")[0]
    rewards = " ".join(row[0] for row in rewards_table(evaluated).rows)
    assert "share above 0" in rewards
    assert "half the score, median" in rewards
    changes = " ".join(row[0] for row in changes_table(evaluated).rows)
    assert "perplexity under the policy before" in changes
    assert "parse" not in changes
    sections = samples_section(evaluated, recipe)
    assert [answer.heading for answer in sections.samples[0].answers] == [
        "Before PPO", "After PPO", "What a person wrote",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "chat"}, "the task ppo needs base too"),
        ({"form": "text", "query_tokens": [8]}, r"query_tokens=\[8\] are to be two numbers, fewest and most"),
        ({"form": "chat", "base": "b", "query_tokens": [2, 8]}, "add form=text"),
    ],
)
def test_what_belongs_to_the_other_form_is_refused(changes: dict[str, Any], words: str) -> None:
    given = {"out": "o", "before": "a", "after": "b", "reward": "r", "held_out_reward": "h", "prompts": "p"}
    with pytest.raises(TrineError, match=words):
        validated(EvaluateConfig, given | changes, "trine evaluate")
