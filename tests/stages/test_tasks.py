"""Tasks of `trine evaluate`: what a model is asked, what its answers are worth, and what is made of that."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from trine.runtime.errors import TrineError
from trine.stages.evaluation.evaluate import evaluate_tasks, task_results
from trine.stages.evaluation.subject import ModelSubject
from trine.stages.evaluation.task import ItemResult, Metric, Subject, Task, TaskRun
from trine.stages.evaluation.task_files import make_task, read_task


@pytest.fixture(scope="module")
def subject() -> ModelSubject:
    return ModelSubject("tiny", tiny_model(vocab_size=320, context=256), tiny_tokenizer())


def task_of(folder: Path, records: Sequence[Mapping[str, Any]], seed: int = 0, **settings: object) -> Task:
    """The task that a YAML file (JSON is YAML) of these settings makes of the records."""
    (folder / "records.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records))
    (folder / "task.yaml").write_text(json.dumps({"records": "records.jsonl", **settings}, ensure_ascii=False))
    return make_task(read_task(str(folder / "task.yaml"), {}), seed)


class Parity:
    """The task that the docstring of task.py shows, with answers by hand."""

    name = "parity"
    metrics = (Metric("accuracy", "share"),)

    def evaluate(self, subject: Subject) -> TaskRun:
        return TaskRun([ItemResult(str(n), {"accuracy": (float(n % 2),)}) for n in range(10)], {"odd": 5})


def test_any_object_of_the_form_is_a_task(subject: ModelSubject) -> None:
    task: Task = Parity()
    figures = evaluate_tasks(tiny_model(vocab_size=320, context=256), tiny_tokenizer(), [task])
    assert figures["parity/accuracy"]["mean"] == 0.5
    results = task_results(task, {"a": task.evaluate(subject), "b": task.evaluate(subject)})
    assert results["differences"]["b"]["accuracy"]["tied"]
    assert results["models"]["a"]["counts"] == {"odd": 5}


def test_an_unknown_task_is_refused_by_its_name() -> None:
    with pytest.raises(TrineError, match=r"task 'sentimant' is neither a file nor comes with Trine; did you mean"):
        read_task("sentimant", {})
