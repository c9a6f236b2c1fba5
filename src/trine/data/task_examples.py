"""Records of GPT-1's tasks (Radford et al. 2018, figure 1), by the names that data sets give their fields.

    classify   {"text": "A fine film.", "label": "pos"}
    entail     {"premise": "A man sleeps.", "hypothesis": "He runs.", "label": "contradiction"}
    similar    {"first": "How old are you?", "second": "What is your age?", "label": 1}
    choose     {"context": "He opened the door", "options": ["and left.", "blue."], "label": 0}

A label is a name, a whole number or true and false. That of a choice is the place of the right option, from 0, or its
letter, or its text; that of a similarity may be a score, as STS-B has them: any number.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from trine.data.class_folders import class_folder_records, is_class_folder
from trine.data.files import read_records
from trine.data.record_files import is_record_file
from trine.data.sources import is_held_out
from trine.records import Task, TaskExample
from trine.runtime.errors import TrineError
from trine.runtime.json_values import is_unicode

# Fields with the texts, the first that a record has all of; those after the first are names of well-known data sets.
FIELDS: dict[Task, tuple[tuple[str, ...], ...]] = {
    "classify": (("text",), ("sentence",), ("review",)),
    "entail": (("premise", "hypothesis"), ("sentence1", "sentence2")),
    "similar": (("first", "second"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2")),
    "choose": (("context", "options"), ("question", "options"), ("question", "choices"), ("ctx", "endings")),
}
LABEL_FIELDS = ("label", "answer", "is_duplicate", "score")


def read_task_examples(path: Path, task: Task, held_out_by: str | None = None) -> list[TaskExample]:
    """The records of a file, of the files of a folder, or of folders named by labels (`class_folders.py`), in order.

    `held_out_by` names the field that says which records belong together; without it, those with the same texts do.
    Raises `TrineError` naming file, line and field.
    """
    fields = tuple(dict.fromkeys(name for names in FIELDS[task] for name in names)) + LABEL_FIELDS
    if is_class_folder(path):
        return task_examples_of(class_folder_records(path), task, held_out_by)
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and is_record_file(each.name))
    return task_examples_of(chain.from_iterable(read_records(file, fields) for file in files), task, held_out_by)


def task_examples_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], task: Task, held_out_by: str | None = None
) -> list[TaskExample]:
    """The same of (place, record) pairs, such as those of a data set on the hub."""
    return [_example(record, place, task, held_out_by) for place, record in records]


def divided(examples: Sequence[TaskExample], share: float) -> tuple[list[TaskExample], list[TaskExample]]:
    """(to train on, held out): a share of the groups, by a hash of their names, as a corpus is divided."""
    parts: tuple[list[TaskExample], list[TaskExample]] = ([], [])
    for example in examples:
        parts[is_held_out(example.group, share)].append(example)
    return parts


def label_names(examples: Sequence[TaskExample]) -> tuple[str, ...]:
    """The labels that there are: numbers in their order, else by the alphabet."""
    names = {example.label for example in examples}
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int) if numbers else sorted(names))


def are_scores(examples: Sequence[TaskExample]) -> bool:
    """Whether the labels, of a similarity, are scores: numbers, and not all of them whole ones.

    Raises `TrineError` where names stand among real numbers.
    """
    real = next((example for example in examples if _number(example.label) % 1 > 0), None)
    named = next((example for example in examples if math.isnan(_number(example.label))), None)
    if real is None or named is None:
        return real is not None
    raise TrineError(
        f"{named.name}: the label {named.label!r:.60} is a name, and that of {real.name} is a score, {real.label}: all "
        "of them have to be scores, or names"
    )


def _number(label: str) -> float:
    """NaN for a name."""
    try:
        found = float(label)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def _example(record: Mapping[str, Any], place: str, task: Task, held_out_by: str | None) -> TaskExample:
    fields = next((names for names in FIELDS[task] if all(record.get(name) is not None for name in names)), None)
    if fields is None:
        wanted = " or ".join("{" + ", ".join((*names, "label")) + "}" for names in FIELDS[task])
        raise TrineError(f"{place}: task={task} takes records {wanted}; this one has {', '.join(record):.120}")
    readings: tuple[tuple[str, ...], ...]
    if task == "choose":
        readings = _options(record, place, fields)
        label = _choice(record, place, [texts[1] for texts in readings])
    else:
        texts = tuple(_text(record[name], place, name) for name in fields)
        readings = (texts, texts[::-1]) if task == "similar" else (texts,)
        label = _label(record, place, task)
    group = "\0".join(readings[0])
    if held_out_by is not None:
        if record.get(held_out_by) is None:
            raise TrineError(
                f"{place}: no field {held_out_by!r}, which held_out_by names; there are {', '.join(record):.120}"
            )
        group = str(record[held_out_by])
    return TaskExample(readings, label, name=str(record.get("id", place)), group=group)


def _options(record: Mapping[str, Any], place: str, fields: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    context, options = _text(record[fields[0]], place, fields[0]), record[fields[1]]
    if not isinstance(options, list) or len(options) < 2:
        raise TrineError(f"{place}: field {fields[1]!r} must be a list of two or more texts, found {options!r:.60}")
    return tuple((context, _text(option, place, fields[1])) for option in options)


def _text(value: Any, place: str, field: str) -> str:
    if not isinstance(value, str) or not is_unicode(value):
        raise TrineError(f"{place}: field {field!r} must be a text, found {value!r:.60}")
    return value


def _label_value(record: Mapping[str, Any], place: str) -> Any:
    for field in LABEL_FIELDS:
        if record.get(field) is not None:
            return record[field]
    raise TrineError(f"{place}: no field 'label'; there are {', '.join(record):.120}")


def _label(record: Mapping[str, Any], place: str, task: Task) -> str:
    value = _label_value(record, place)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if task == "similar" and isinstance(value, float) and math.isfinite(value):
        return str(value)
    if not isinstance(value, int | str) or not str(value).strip() or not is_unicode(str(value)):
        raise TrineError(
            f"{place}: field 'label' must be a name, a whole number or true and false, found {value!r:.60}; a real "
            "number is a score, which --task similar learns, of two texts, and `trine reward --scores`, of one"
        )
    return str(value).strip()


def _choice(record: Mapping[str, Any], place: str, options: list[str]) -> str:
    """The place of the right option, as text."""
    value = _label_value(record, place)
    if isinstance(value, str):
        if options.count(value) == 1:
            return str(options.index(value))
        if len(value.strip()) == 1 and value.strip().isascii() and value.strip().isalpha():
            value = ord(value.strip().upper()) - ord("A")
        elif value.strip().isdecimal():
            value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value < len(options):
        raise TrineError(
            f"{place}: field 'label' must be the place of the right option, 0 to {len(options) - 1}, its letter or its "
            f"text, found {value!r:.60}"
        )
    return str(value)
