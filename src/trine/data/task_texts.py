"""Records for task tokens (GPT-2: a task is a token among the text; Radford et al. 2019).

    {"text": "Today is a good day"}                                                all of it is learned
    {"prompt": "Today is a", "response": " good"}                                  the response is learned
    {"prompt": "Today is a", "task": "[to Chinese]", "response": "今天是一个"}      the token between them
    {"prompt": "我是小明", "slots": {"[问题]": "我是谁", "[答案]": "小明"}}          the last slot is the answer

Only `task` and `slots` place a token: its characters in a text stay text. Texts are joined as they are, so a blank
between two belongs to one of them. `slots` may be a list of [token, text] as well, where a token comes twice.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from trine.data.files import read_records
from trine.records import TaskText
from trine.runtime.errors import TrineError
from trine.runtime.json_values import is_unicode

FORM = "{text}, {prompt, response}, {prompt, task, response} or {prompt, slots}"
_FIELDS = ("text", "prompt", "response", "task", "slots")


def read_task_texts(path: Path, tokens: Collection[str]) -> list[TaskText]:
    """The records of a file in order; `tokens` are the names of the task tokens that there are.

    Raises `TrineError` naming file, line and field of the first that is of none of the forms.
    """
    return [_task_text(record, place, tokens) for place, record in read_records(path, _FIELDS)]


def _task_text(record: Mapping[str, Any], place: str, tokens: Collection[str]) -> TaskText:
    given = {name: record[name] for name in _FIELDS if record.get(name) is not None}
    if "text" in given:
        if len(given) > 1:
            raise TrineError(f"{place}: a record with 'text' is learned whole, and has no {list(given)[1]!r} beside it")
        return TaskText((("", _text(given["text"], "text", place)),), place=place)
    opening = [("", _text(given["prompt"], "prompt", place))] if "prompt" in given else []
    placed = [*_placed(given, place)]
    _check_tokens(placed, place, tokens)
    if "response" in given:
        return TaskText(tuple(opening + placed), _text(given["response"], "response", place), place)
    if not placed or "slots" not in given:
        raise TrineError(f"{place}: no answer to learn; a record is {FORM}, and this one has {list(record)!r:.80}")
    *earlier, (token, answer) = placed
    return TaskText((*opening, *earlier, (token, "")), answer, place)


def _placed(given: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """The task tokens of a record, each with the text after it."""
    if "task" in given and "slots" in given:
        raise TrineError(f"{place}: fields 'task' and 'slots' both place task tokens; give one of them")
    if "task" in given:
        yield _text(given["task"], "task", place), ""
        return
    slots = given.get("slots", ())
    pairs = list(slots.items()) if isinstance(slots, Mapping) else slots
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise TrineError(
            f"{place}: field 'slots' must be {{token: text, ...}} or [[token, text], ...], found {slots!r:.60}"
        )
    for token, text in pairs:
        if text is not None:  # a table gives every record all its columns
            yield _text(token, "slots", place), _text(text, f"slots.{token}", place)


def _check_tokens(placed: list[tuple[str, str]], place: str, tokens: Collection[str]) -> None:
    unknown = next((token for token, _ in placed if token not in tokens), None)
    if unknown is not None:
        raise TrineError(
            f"{place}: {unknown!r} is no task token; task_tokens declares {', '.join(tokens) or 'none'}: add it there, "
            "or correct the record"
        )


def _text(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str):
        hint = "; task tokens stand in plain text, not in a chat" if isinstance(value, list) else ""
        raise TrineError(f"{place}: field {field!r} must be a string, found {value!r:.60}{hint}")
    if not is_unicode(value):
        raise TrineError(f"{place}: field {field!r} is not UTF-8, or has half of a surrogate pair")
    return value
