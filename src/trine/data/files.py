"""Examples and preferences as JSONL, one record per line; errors name file and line."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from trine.records import Example, Message, PreferencePair, Role
from trine.runtime.errors import TrineError
from trine.runtime.files import read_numbered_jsonl, write_jsonl

EXAMPLE_FIELDS = ("prompt", "response", "name", "group")
ROLES: tuple[str, ...] = get_args(Role)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    write_jsonl(path, [_example_row(example) for example in examples])


def _example_row(example: Example) -> dict[str, Any]:
    row = asdict(example)
    return row | row.pop("columns")


def read_examples(path: Path, *, answered: bool = True) -> list[Example]:
    """Rows with `prompt` (a string or a list of {role, content}) and `response`; other fields are kept as `columns`.

    Without `answered`, a row may have no response, or null: prompts to sample from need none.
    """
    return [
        Example(
            _messages(row, path, number),
            _string(row, "response", path, number) if answered or row.get("response") is not None else "",
            name=str(row.get("name", f"{path}:{number}")),
            group=str(row.get("group", f"{path}:{number}")),
            columns={key: value for key, value in row.items() if key not in EXAMPLE_FIELDS},
        )
        for number, row in read_numbered_jsonl(path)
    ]


def write_preferences(path: Path, preferences: Sequence[PreferencePair]) -> None:
    write_jsonl(path, [asdict(preference) for preference in preferences])


def read_preferences(path: Path) -> list[PreferencePair]:
    """Rows with `prompt`, `chosen`, `rejected`."""
    return [
        PreferencePair(
            _messages(row, path, number),
            _string(row, "chosen", path, number),
            _string(row, "rejected", path, number),
            chosen_ended=bool(row.get("chosen_ended", True)),
            rejected_ended=bool(row.get("rejected_ended", True)),
            name=str(row.get("name", f"{path}:{number}")),
            group=str(row.get("group", f"{path}:{number}")),
        )
        for number, row in read_numbered_jsonl(path)
    ]


def _string(row: dict[str, Any], key: str, path: Path, number: int) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise TrineError(f"{path}:{number}: field '{key}' must be a string, found {value!r:.60}")
    return value


def _messages(row: dict[str, Any], path: Path, number: int) -> tuple[Message, ...]:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if isinstance(prompt, list) and prompt and all(_is_turn(turn) for turn in prompt):
        return tuple(Message(turn["role"], turn["content"]) for turn in prompt)
    raise TrineError(
        f"{path}:{number}: field 'prompt' must be a string or a list of {{role, content}} "
        f"(roles: {', '.join(ROLES)}), found {prompt!r:.60}"
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
