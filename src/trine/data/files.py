"""Examples and preferences, one record each: written as JSON Lines, preferences read from any file of records
(`record_files.py`); examples are read by `exchanges.py`.

Errors name file, line and field. A record in another of the forms that people have is refused by that form's name, with
what to rename.
"""

import datetime
import decimal
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from trine.data.record_files import RecordForm, read_rows
from trine.records import Example, Message, PreferencePair, Role
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.json_values import is_unicode

EXAMPLE_FIELDS = ("prompt", "response", "name", "group")
PREFERENCE = "{prompt, chosen, rejected}: prompt a string or a list of {role, content}, the others strings"
ROLES: tuple[str, ...] = get_args(Role)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    write_jsonl(path, [_example_row(example) for example in examples])


def _example_row(example: Example) -> dict[str, Any]:
    row = asdict(example)
    return row | row.pop("columns")


def write_preferences(path: Path, preferences: Sequence[PreferencePair]) -> None:
    write_jsonl(path, [asdict(preference) for preference in preferences])


def read_preferences(path: Path) -> list[PreferencePair]:
    """Records with `prompt`, `chosen`, `rejected`."""
    return [
        PreferencePair(
            _messages(row, place),
            _string(row, "chosen", place),
            _string(row, "rejected", place),
            chosen_ended=_flag(row, "chosen_ended", place),
            rejected_ended=_flag(row, "rejected_ended", place),
            name=str(row.get("name", place)),
            group=str(row.get("group", place)),
        )
        for place, row in read_records(path, ("prompt", "chosen", "rejected"))
    ]


def read_records(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, record) each; the first that cannot be read is an error. `fields`: those that are looked for."""
    for row in read_rows(Path(path), RecordForm(fields)):
        place = f"{path}:{row.line}"
        if row.record is None:
            raise TrineError(f"{place}: {row.reason}")
        yield (
            place if row.line == row.number else f"{place}#{row.number}",
            {key: as_json(value) for key, value in row.record.items()},
        )


def as_json(value: Any) -> Any:
    """A value of Parquet that JSON has none of, as text."""
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _string(row: dict[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise TrineError(f"{place}: {_another_form(row) or f'field {key!r} must be a string, found {value!r:.60}'}")
    _check_text(value, key, place)
    return value


def _check_text(text: str, key: str, place: str) -> None:
    if not is_unicode(text):
        raise TrineError(f"{place}: field {key!r} is not UTF-8, or has half of a surrogate pair")


def _flag(row: dict[str, Any], key: str, place: str) -> bool:
    value = row.get(key, True)
    if isinstance(value, str) and value.lower() in ("true", "false"):  # of a CSV file
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TrineError(f"{place}: field {key!r} must be true or false, found {value!r:.60}")
    return value


def _messages(row: dict[str, Any], place: str) -> tuple[Message, ...]:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        _check_text(prompt, "prompt", place)
        return (Message("user", prompt),)
    if isinstance(prompt, list) and prompt and all(_is_turn(turn) for turn in prompt):
        for turn in prompt:
            _check_text(turn["content"], "prompt", place)
        return tuple(Message(turn["role"], turn["content"]) for turn in prompt)
    raise TrineError(
        f"{place}: "
        + (
            _another_form(row)
            or f"field 'prompt' must be a string or a list of {{role, content}} (roles: {', '.join(ROLES)}), "
            f"found {prompt!r:.60}"
        )
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)


# What other tools call their records: the fields that tell, and the name of the form. The first that fits is named.
FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("chosen", "rejected"),
        "TRL's preference form with conversations, or without a prompt of its own",
    ),
    (("conversations",), "the ShareGPT form (conversations: [{from, value}])"),
    (("messages",), "the conversation form (messages: [{role, content}])"),
    (("instruction", "output"), "the Alpaca form (instruction, input, output)"),
    (("prompt", "completion", "label"), "TRL's unpaired preference form (prompt, completion, label)"),
    (("prompt", "completion"), "the prompt-completion form"),
    (("question", "answer"), "the question-answer form"),
    (("text",), "the plain-text form (text)"),
)
REMEDY = "put what both sides have in common into prompt, and keep of chosen and rejected the text of the last answer"


def _another_form(row: dict[str, Any]) -> str | None:
    """The form that a record has in place of `PREFERENCE`, in words."""
    for fields, name in FORMS:
        if all(field in row for field in fields):
            advice = f": {REMEDY}" if "chosen" in fields else ""
            return f"the record is in {name}; taken here is {PREFERENCE}{advice}"
    return None
