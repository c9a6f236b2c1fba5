"""Conversations to fine-tune on, read from records in the forms that people have; all become a `Conversation`.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ..., "train": false}, ...]}
    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}           ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                                                  Alpaca
    {"prompt": ..., "response": ...}    {"prompt": ..., "completion": ...}    {"question": ..., "answer": ...}
    {"text": ...}    {"text": ..., "ended": false}: cut, so that its end is not learned

A form is recognised by its keys, the first of `FORMS` that fits. Every assistant message is learned unless it says
`"train": false` (or, as OpenAI's fine-tuning has it, `"weight": 0`); a `prompt` is context, and an answer inside it is
learned only where it says `"train": true`. A record that cannot be read, or gives nothing to learn, is an error that
names file, line and field.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trine.data.files import as_json
from trine.data.record_files import RecordForm, is_record_file, read_rows
from trine.records import Conversation, Message, Role
from trine.runtime.errors import TrineError
from trine.runtime.json_values import is_unicode, parse_json

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant",
}  # fmt: skip
TOOLS = ("tool", "function", "function_call", "observation", "tool_call", "tool_response", "ipython")
# Keys of a message that would change what a template writes, and are not read.
UNREAD = ("tool_calls", "function_call", "reasoning_content", "thinking")

Record = Mapping[str, Any]
Turn = tuple[Message, bool]
"""a message, and whether it is learned"""


@dataclass(frozen=True)
class Form:
    """A form of records: its name, the fields that tell it, and how its turns are read from (record, place)."""

    name: str
    fields: tuple[str, ...]
    turns: Callable[[Record, str], list[Turn]]
    without: tuple[str, ...] = ()

    def fits(self, record: Record) -> bool:
        return all(name in record for name in self.fields) and not any(name in record for name in self.without)

    def begun(self, record: Record) -> bool:
        """Whether some of its fields are there, and some are missing."""
        return any(name in record for name in self.fields) and not all(name in record for name in self.fields)


@dataclass(frozen=True)
class Conversations:
    """What was read, in order, and how many records had each form."""

    items: tuple[Conversation, ...]
    forms: Mapping[str, int]

    @property
    def words(self) -> str:
        return forms_in_words(self.forms)


def forms_in_words(forms: Mapping[str, int]) -> str:
    """The forms of records, for a person: OpenAI messages; or, of several, each with its count."""
    if len(forms) == 1:
        return next(iter(forms))
    return ", ".join(f"{name} ({count})" for name, count in forms.items())


def read_conversations(path: Path) -> Conversations:
    """All records of a file, or of the files of records in a folder, in the order of their names.

    Example::

        found = read_conversations(Path("chat.jsonl"))
        found.words, found.items[0].messages, found.items[0].answers

    Raises `TrineError` naming file, line and field of the first record that cannot be read.
    """
    return conversations_of(_records(Path(path)), str(path))


def conversations_of(records: Iterable[tuple[str, Record]], source: str) -> Conversations:
    """The conversations in (place, record) pairs; `source` names where they come from."""
    forms: Counter[str] = Counter()
    items = []
    for place, record in records:
        form = _form_of(record, place)
        forms[form.name] += 1
        items.append(_conversation(form, record, place))
    if not items:
        raise TrineError(f"{source} holds no examples")
    return Conversations(tuple(items), forms)


def turns_of(form: Form, record: Record, place: str) -> list[Message]:
    """The messages of a record of `form`, learned or not."""
    return [message for message, _ in form.turns(record, place)]


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and is_record_file(each.name))
    fields = tuple(dict.fromkeys(name for form in FORMS for name in form.fields))
    for file in files:
        for row in read_rows(file, RecordForm(fields)):
            place = f"{file}:{row.line}"
            if row.record is None:
                raise TrineError(f"{place}: {row.reason}")
            yield (place if row.line == row.number else f"{place}#{row.number}"), row.record


def _form_of(record: Record, place: str) -> Form:
    form = next((form for form in FORMS if form.fits(record)), None)
    if form is not None:
        return form
    why = next((why for fields, why in REFUSED if all(name in record for name in fields)), None)
    if why:
        raise TrineError(f"{place}: the record is {why}")
    missing = next((name for form in FORMS if form.begun(record) for name in form.fields if name not in record), None)
    if missing:
        raise TrineError(f"{place}: field {missing!r} must be a string, found None; {_fields_of(record)}")
    known = "; ".join(f"{form.name} {{{', '.join(form.fields)}}}" for form in FORMS)
    raise TrineError(f"{place}: {_fields_of(record)}, which are of no form that is known: {known}")


def _fields_of(record: Record) -> str:
    found = ", ".join(map(str, record)) or "none"
    return f"the record has the fields {found:.200}"


def _conversation(form: Form, record: Record, place: str) -> Conversation:
    columns = {key: as_json(value) for key, value in record.items() if key not in (*form.fields, "name", "group")}
    text = _text(record, "text", place) if form.fields == ("text",) else ""
    turns = form.turns(record, place)
    messages = tuple(message for message, _ in turns)
    found = Conversation(messages, tuple(learned for _, learned in turns), text, place, columns=columns)
    if not text and not found.answers:
        raise TrineError(f"{place}: nothing to train on: {_why_nothing(messages)} (field {form.fields[0]!r})")
    question = next((message.content for message in messages if message.role == "user"), text)
    name, group = (record.get(key) for key in ("name", "group"))
    ended = not text or str(record.get("ended", True)).strip().lower() not in ("false", "0", "no")
    return Conversation(
        messages, found.learned, text, place, place if name is None else str(name),
        question if group is None else str(group), columns, ended,
    )  # fmt: skip


def _why_nothing(messages: Sequence[Message]) -> str:
    if not messages:
        return "it has no messages, and no text"
    if all(message.role != "assistant" for message in messages):
        return "no message is the assistant's"
    return 'every answer says "train": false'


def _openai(record: Record, place: str) -> list[Turn]:
    return _turns(record, "messages", place)


def _sharegpt(record: Record, place: str) -> list[Turn]:
    return _system(record, place) + _turns(record, "conversations", place)


def _alpaca(record: Record, place: str) -> list[Turn]:
    """`instruction` and, behind a line break, `input`; earlier exchanges in `history`, as pairs.

    GPTeacher calls the answer `response`; so does Dolly, whose input is `context`.
    """
    asked = [_text(record, "instruction", place)]
    given = next((name for name in ("input", "context") if record.get(name)), None)
    if given:
        asked.append(_text(record, given, place))
    earlier = [turn for index, pair in enumerate(record.get("history") or ()) for turn in _pair(pair, index, place)]
    question = (Message("user", "\n".join(asked)), False)
    return [
        *_system(record, place),
        *earlier,
        question,
        _answer(record, "output" if "output" in record else "response", place),
    ]


def _pair(pair: Any, index: int, place: str) -> list[Turn]:
    if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
        raise TrineError(f"{place}: field 'history[{index}]' must be [question, answer], found {pair!r:.60}")
    return [(Message("user", pair[0]), False), (Message("assistant", pair[1]), True)]


def _asked_by(prompt: str, answer: str) -> Callable[[Record, str], list[Turn]]:
    """A question, or a conversation up to it, in one field and the answer in another; either may be messages."""

    def turns(record: Record, place: str) -> list[Turn]:
        given, answered = record.get(prompt), record.get(answer)
        if _is_list(given):
            before = _turns(record, prompt, place, otherwise=False)
        else:
            before = [(Message("user", _text(record, prompt, place)), False)]
        return before + (_turns(record, answer, place) if _is_list(answered) else [_answer(record, answer, place)])

    return turns


def _plain(record: Record, place: str) -> list[Turn]:
    return []


def _answer(record: Record, field: str, place: str) -> Turn:
    return Message("assistant", _text(record, field, place)), True


def _system(record: Record, place: str) -> list[Turn]:
    """The system message that some keep beside the turns."""
    return [(Message("system", _text(record, "system", place)), False)] if record.get("system") else []


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _turns(record: Record, field: str, place: str, *, otherwise: bool = True) -> list[Turn]:
    """A list of messages; `otherwise`: whether an answer is learned that does not say. In tables it may be JSON."""
    value = record.get(field)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise TrineError(f"{place}: field {field!r}: {error}") from None
    if not _is_list(value) or not value:
        raise TrineError(f"{place}: field {field!r} must be a list of messages, found {value!r:.60}")
    return [_turn(each, f"{field}[{index}]", place, otherwise) for index, each in enumerate(value)]


def _turn(value: Any, field: str, place: str, otherwise: bool) -> Turn:
    if not isinstance(value, Mapping):
        raise TrineError(f"{place}: field {field!r} must be a message {{role, content}}, found {value!r:.60}")
    unread = next((key for key in UNREAD if value.get(key)), None)
    if unread:
        raise TrineError(
            f"{place}: field '{field}.{unread}' is not trained on: leave the record out, or write what the model is to "
            "learn into content, as its chat template would"
        )
    message = Message(_role(value, field, place), _content(value, field, place))
    said = _said(value, field, place)
    if said and message.role != "assistant":
        raise TrineError(f"{place}: field '{field}.train' is true, but only the assistant's messages are trained")
    return message, message.role == "assistant" and (otherwise if said is None else said)


def _role(value: Record, field: str, place: str) -> Role:
    key = "role" if value.get("role") is not None else "from"
    role = value.get(key)
    known = ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        why = "; calls of tools are not trained on: leave such records out" if role in TOOLS else ""
        raise TrineError(f"{place}: field '{field}.{key}' must be one of {', '.join(ROLES)}, found {role!r:.60}{why}")
    return known


def _content(value: Record, field: str, place: str) -> str:
    """The text of a message; OpenAI's list of parts is joined, where all are texts."""
    key = "value" if "content" not in value and "value" in value else "content"
    parts = value.get(key)
    if isinstance(parts, list | tuple) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts
    ):
        return _checked("".join(part["text"] for part in parts), f"{field}.{key}", place)
    return _text(value, key, place, f"{field}.{key}")


def _said(value: Record, field: str, place: str) -> bool | None:
    """What a message says of being trained; None where it says nothing."""
    key = "train" if value.get("train") is not None else "weight"
    said = value.get(key)
    if said is None or isinstance(said, bool):
        return said
    if said in (0, 1):
        return bool(said)
    raise TrineError(f"{place}: field '{field}.{key}' must be true or false, found {said!r:.60}")


def _text(record: Record, key: str, place: str, field: str = "") -> str:
    value = record.get(key)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise TrineError(f"{place}: field {field or key!r} must be a string, found {value!r:.60}")
    return _checked(value, field or key, place)


def _checked(text: str, field: str, place: str) -> str:
    if not is_unicode(text):
        raise TrineError(f"{place}: field {field!r} is not UTF-8, or has half of a surrogate pair")
    return text


def is_list(value: Any) -> bool:
    """Whether a value is a list, as JSON or a table has it."""
    return _is_list(value)


def text_of(record: Record, key: str, place: str, field: str = "") -> str:
    """The text in a field; `TrineError` naming `place` where it is none. `field`: what to call it."""
    return _text(record, key, place, field)


def messages_of(record: Record, field: str, place: str) -> list[Message]:
    """The messages in a field, as OpenAI or ShareGPT write them."""
    return [message for message, _ in _turns(record, field, place)]


def message_of(value: Any, field: str, place: str) -> Message:
    """One message, in either form."""
    return _turn(value, field, place, otherwise=True)[0]


# The first that fits is taken. Of TRL's unpaired preferences (prompt, completion, label) half are bad answers.
FORMS = (
    Form("prompt and response", ("prompt", "response"), _asked_by("prompt", "response")),
    Form("OpenAI messages", ("messages",), _openai),
    Form("ShareGPT conversations", ("conversations",), _sharegpt),
    Form("prompt and completion", ("prompt", "completion"), _asked_by("prompt", "completion"), without=("label",)),
    Form("Alpaca", ("instruction", "output"), _alpaca),
    Form("Alpaca with response", ("instruction", "response"), _alpaca),
    Form("question and answer", ("question", "answer"), _asked_by("question", "answer")),
    Form("plain text", ("text",), _plain, without=("chosen", "rejected")),
)
# Forms that are refused by name: the fields that tell, and what to do.
REFUSED = (
    (
        ("chosen", "rejected"),
        "a preference pair: `trine reward` learns from those; to fine-tune on the preferred answer, rename chosen to "
        "response, as a string",
    ),
    (
        ("prompt", "completion", "label"),
        "TRL's unpaired preference form, in which label says whether the answer is a good one: keep the records whose "
        "label is true, without that field",
    ),
)
