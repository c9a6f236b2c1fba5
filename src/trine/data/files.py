"""Examples and preferences, one record each: written as JSON Lines, read from any file of records (`record_files.py`).

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
EXAMPLE = "{prompt, response}: prompt a string or a list of {role, content}, response a string"
PREFERENCE = "{prompt, chosen, rejected}: prompt a string or a list of {role, content}, the others strings"
ROLES: tuple[str, ...] = get_args(Role)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    write_jsonl(path, [_example_row(example) for example in examples])


def _example_row(example: Example) -> dict[str, Any]:
    row = asdict(example)
    return row | row.pop("columns")


def read_examples(path: Path, *, answered: bool = True) -> list[Example]:
    """Records with `prompt` (a string or a list of {role, content}) and `response`; other fields become `columns`.

    Without `answered`, a record may have no response, or null: prompts to sample from need none.
    """
    return [
        Example(
            _messages(row, place, EXAMPLE),
            _string(row, "response", place, EXAMPLE) if answered or row.get("response") is not None else "",
            name=str(row.get("name", place)),
            group=str(row.get("group", place)),
            columns={key: value for key, value in row.items() if key not in EXAMPLE_FIELDS},
        )
        for place, row in read_records(path, ("prompt", "response") if answered else ("prompt",))
    ]


def write_preferences(path: Path, preferences: Sequence[PreferencePair]) -> None:
    write_jsonl(path, [asdict(preference) for preference in preferences])


def read_preferences(path: Path) -> list[PreferencePair]:
    """Records with `prompt`, `chosen`, `rejected`."""
    return [
        PreferencePair(
            _messages(row, place, PREFERENCE),
            _string(row, "chosen", place, PREFERENCE),
            _string(row, "rejected", place, PREFERENCE),
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


def _string(row: dict[str, Any], key: str, place: str, taken: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise TrineError(
            f"{place}: {_another_form(row, taken) or f'field {key!r} must be a string, found {value!r:.60}'}"
        )
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


def _messages(row: dict[str, Any], place: str, taken: str) -> tuple[Message, ...]:
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
            _another_form(row, taken)
            or f"field 'prompt' must be a string or a list of {{role, content}} (roles: {', '.join(ROLES)}), "
            f"found {prompt!r:.60}"
        )
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)


# What other tools call their records: (fields that tell, name of the form, what to do). The first that fits is named.
FORMS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("conversations",), "the ShareGPT form (conversations: [{from, value}])",
        "put the turns before the last answer into prompt, with from human → role user and gpt → assistant, and the "
        "last answer into response",
    ),
    (
        ("messages",), "the conversation form (messages: [{role, content}])",
        "put the turns before the last answer into prompt, and the content of the last answer into response",
    ),
    (
        ("instruction", "output"), "the Alpaca form (instruction, input, output)",
        "join instruction and input into prompt, and rename output to response",
    ),
    (
        ("prompt", "completion", "label"), "TRL's unpaired preference form (prompt, completion, label)",
        "keep the records whose label is true, and rename completion to response",
    ),
    (("prompt", "completion"), "the prompt-completion form", "rename completion to response, as a string"),
    (("question", "answer"), "the question-answer form", "rename question to prompt and answer to response"),
    (("text",), "the plain-text form (text)", "text without a prompt is for `trine pretrain`"),
)  # fmt: skip
PREFERENCE_FORMS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("chosen", "rejected"), "TRL's preference form with conversations, or without a prompt of its own",
        "put what both sides have in common into prompt, and keep of chosen and rejected the text of the last answer",
    ),
)  # fmt: skip


def _another_form(row: dict[str, Any], taken: str) -> str | None:
    """The form that a record has in place of the one that is `taken`, in words."""
    forms = PREFERENCE_FORMS if taken == PREFERENCE else ()
    for fields, name, remedy in (*forms, *FORMS):
        if all(field in row for field in fields):
            advice = f": {remedy}" if taken == EXAMPLE or (fields, name, remedy) in forms else ""
            return f"the record is in {name}; taken here is {taken}{advice}"
    return None
