"""Records of GPT-1's tasks: fields of well-known data sets, labels, folders, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trine.data.task_examples import label_names, read_task_examples
from trine.records import Task
from trine.runtime.errors import TrineError


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("classify", {"review": "x"}, "no field 'label'"),
        ("classify", {"words": "x", "label": 1}, r"task=classify takes records \{text, label\} or"),
        ("classify", {"text": "x", "label": 1.5}, "a real number is a score"),
        ("classify", {"text": "x", "label": [1]}, "field 'label' must be a name"),
        ("classify", {"text": 3, "label": 1}, "field 'text' must be a text, found 3"),
        ("entail", {"premise": "x", "label": 1}, r"takes records \{premise, hypothesis, label\}"),
        ("choose", {"context": "x", "options": ["a"], "label": 0}, "a list of two or more texts"),
        ("choose", {"context": "x", "options": ["a", "b"], "label": 2}, "the place of the right option, 0 to 1"),
        ("choose", {"context": "x", "options": ["a", "b"], "label": "C"}, "the place of the right option, 0 to 1"),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path: Path, task: Task, record: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "bad.jsonl", [record])
    with pytest.raises(TrineError, match=rf"bad\.jsonl:1: .*{message}"):
        read_task_examples(path, task)


def test_labels_are_names_in_order_and_choices_places(tmp_path: Path) -> None:
    mixed = [{"text": "x", "label": label} for label in (10, 2, True, "2", 2.0)]
    assert [e.label for e in read_task_examples(written(tmp_path / "a.jsonl", mixed), "classify")] == [
        "10",
        "2",
        "true",
        "2",
        "2",
    ]
    numbers = [
        replace(example, label=label)
        for example, label in zip(
            read_task_examples(tmp_path / "a.jsonl", "classify"), ["10", "2", "1", "2", "0"], strict=True
        )
    ]
    assert label_names(numbers) == ("0", "1", "2", "10")
    options = [{"context": "x", "options": ["a", "b"], "label": label} for label in (1, "B", "b", "1", 1.0)]
    assert {e.label for e in read_task_examples(written(tmp_path / "b.jsonl", options), "choose")} == {"1"}


def test_texts_in_folders_named_by_their_label_are_read_with_their_movies(tmp_path: Path) -> None:
    for label, texts in {"pos": ["fine", "good"], "neg": ["bad"], "unsup": ["?"]}.items():
        (tmp_path / "train" / label).mkdir(parents=True)
        for number, text in enumerate(texts):
            (tmp_path / "train" / label / f"{number}_7.txt").write_text(text)
    (tmp_path / "train" / "urls_pos.txt").write_text("tt1\ntt2\n")
    (tmp_path / "train" / "urls_neg.txt").write_text("tt2\n")
    found = read_task_examples(tmp_path, "classify", "movie")
    assert [(e.readings[0][0], e.label, e.group) for e in found] == [
        ("bad", "neg", "tt2"), ("fine", "pos", "tt1"), ("good", "pos", "tt2"),
    ]  # fmt: skip
