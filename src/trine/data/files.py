"""Examples and comparisons as JSONL, one record a line; wrong lines are named by file and number."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trine.records import Comparison, Example, Message
from trine.runtime.errors import TrineError
from trine.runtime.files import read_jsonl, write_jsonl


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    write_jsonl(path, [asdict(example) for example in examples])


def read_examples(path: Path) -> list[Example]:
    """Rows with `prompt` (a string or a list of {role, content}) and `response`."""
    return [
        Example(
            _messages(row, path, number),
            _string(row, "response", path, number),
            name=str(row.get("name", f"{path}:{number}")),
            group=str(row.get("group", f"{path}:{number}")),
        )
        for number, row in enumerate(read_jsonl(path), 1)
    ]


def write_comparisons(path: Path, comparisons: Sequence[Comparison]) -> None:
    write_jsonl(path, [asdict(comparison) for comparison in comparisons])


def read_comparisons(path: Path) -> list[Comparison]:
    """Rows with `prompt`, `chosen`, `rejected`."""
    return [
        Comparison(
            _messages(row, path, number),
            _string(row, "chosen", path, number),
            _string(row, "rejected", path, number),
            chosen_ended=bool(row.get("chosen_ended", True)),
            rejected_ended=bool(row.get("rejected_ended", True)),
            name=str(row.get("name", f"{path}:{number}")),
            group=str(row.get("group", f"{path}:{number}")),
        )
        for number, row in enumerate(read_jsonl(path), 1)
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
    try:
        return tuple(Message(turn["role"], turn["content"]) for turn in prompt or ())
    except (TypeError, KeyError):
        raise TrineError(
            f"{path}:{number}: field 'prompt' must be a string or a list of {{role, content}}, found {prompt!r:.60}"
        ) from None
