"""16.5: tasks of reasoning-gym by name, as prompts and as a reward; against a stand-in of its API, and itself."""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import trine
from tests.conftest import Command
from trine.data import reasoning
from trine.rewards.shipped import shipped_reward
from trine.runtime.errors import TrineError
from trine.runtime.files import read_jsonl


@dataclass
class SumConfig:
    seed: int = 0
    size: int = 500
    largest: int = 9


class Sums:
    """As reasoning-gym's data sets are: a question by seed and number, with an object in its metadata."""

    def __init__(self, config: SumConfig) -> None:
        self.config = config

    def __getitem__(self, place: int) -> dict[str, Any]:
        source = random.Random(self.config.seed + place)
        a, b = (source.randint(0, self.config.largest) for _ in range(2))
        return {"question": f"{a} + {b}?", "answer": str(a + b), "metadata": {"terms": (a, b), "object": object()}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        assert isinstance(entry["metadata"]["terms"], tuple)  # JSON would have made it a list
        return 1.0 if answer == entry["answer"] else 0.25 if entry["answer"] in (answer or "") else 0.0


def forget() -> None:
    reasoning._package.cache_clear()
    reasoning._data_set.cache_clear()


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package, factory = ModuleType("reasoning_gym"), ModuleType("reasoning_gym.factory")
    factory.DATASETS = {"sums": (Sums, SumConfig), "others": (Sums, SumConfig)}  # type: ignore[attr-defined]
    package.factory = factory  # type: ignore[attr-defined]
    package.create_dataset = lambda name, **options: Sums(SumConfig(**options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)
    monkeypatch.setattr("trine.config.extras._is_installed", lambda module: True)
    forget()
    yield
    forget()


def test_prompts_of_tasks_are_written_and_scored_by_the_task_that_asked(
    gym: None, command: Command, tmp_path: Path
) -> None:
    """The question is made again from its seed and number, whatever JSON would make of it."""
    out = tmp_path / "reasoning"
    code, _, message = command(
        "reasoning", "--tasks", "sums,others", "--count", "30", "--held_out_count", "10", "--options", "largest=99",
        "--out", out,
    )  # fmt: skip
    assert code == 0, message
    train, held_out = read_jsonl(out / "train.jsonl"), read_jsonl(out / "held_out.jsonl")
    assert (len(train), len(held_out)) == (30, 10)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert [sum(row["reasoning_gym"]["task"] == task for row in train) for task in ("sums", "others")] == [15, 15]
    assert train[0]["prompt"].endswith("between <answer> and </answer>.")
    reward = trine.load_reward("reasoning-gym")
    for row in train[:5]:
        key = json.loads(json.dumps(row["reasoning_gym"]))
        found = [
            reward.score(row["prompt"], text, reasoning_gym=key)
            for text in (f"So <answer> {row['answer']} </answer>", row["answer"], f"It is {row['answer']}.", "none")
        ]
        assert found == [1.0, 1.0, 0.25, 0.0]


def test_a_named_task_applies_to_its_own_questions_alone(gym: None) -> None:
    rows = [next(reasoning.reasoning_records(task, {}, seed=1, size=4, instruction="")) for task in ("sums", "others")]
    reward = trine.load_reward("reasoning-gym:sums + reasoning-gym:others")
    keys = [row["reasoning_gym"] for row in rows]
    parts = reward.parts(["a", "b"], [row["answer"] for row in rows], reasoning_gym=keys)
    assert [str(each) for each in parts["reasoning-gym:sums"]] == ["1.0", "nan"]
    assert [str(each) for each in parts["reasoning-gym:others"]] == ["nan", "1.0"]


def test_it_is_cheated_by_a_list_of_all_that_come_into_question(gym: None) -> None:
    row = next(reasoning.reasoning_records("sums", {}, seed=1, size=5, instruction=""))
    score = trine.load_reward("reasoning-gym").score
    assert score("q", " ".join(map(str, range(19))), reasoning_gym=row["reasoning_gym"]) == 0.25


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [("summs", {}, "has no task summs; did you mean 'sums'"), ("sums", {"lagest": 3}, "unexpected keyword.*'lagest'")],
)
def test_a_task_or_option_that_there_is_not_is_named(gym: None, task: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(TrineError, match=told):
        next(reasoning.reasoning_records(task, options, seed=0, size=5, instruction=""))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    forget()
    with pytest.raises(TrineError, match=r"pip install 'trine\[reasoning\]'"):
        next(reasoning.reasoning_records("sums", {"x": "missing"}, seed=0, size=5, instruction=""))
    forget()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["leg_counting", "basic_arithmetic", "word_sorting", "countdown"])
def test_the_package_itself_scores_its_own_answers(task: str) -> None:
    pytest.importorskip("reasoning_gym", reason="pip install 'trine[reasoning]'")
    records = reasoning.reasoning_records(task, {}, seed=5, size=5, instruction="")
    for row in (next(records) for _ in range(5)):
        answers = (f"<answer>{row['answer']}</answer>", "<answer>no idea</answer>")
        found = [
            trine.load_reward("reasoning-gym").score("q", each, reasoning_gym=row["reasoning_gym"]) for each in answers
        ]
        assert found[0] == 1.0 and found[1] < 1.0
    assert shipped_reward(f"reasoning-gym:{task}").needs == ("reasoning_gym",)
