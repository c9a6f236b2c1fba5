"""Texts and answers to score: lines of text, or records of {text}, {prompt, response} or {messages}.

One line of text is one text, an empty one too, so that what is written beside them has as many lines. In records the
answer is what is scored, after its prompt: the text of `response`, or the last of `messages`. `"ended": false` says
that it was cut at a token budget. All other fields are the answer's columns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trine.data.conversations import conversations_of
from trine.data.files import as_json
from trine.data.opening import open_utf8, stream_errors
from trine.data.record_files import RecordForm, is_record_file, read_rows
from trine.data.unlike_text import why_not_utf8
from trine.records import Answer, Form, Message
from trine.runtime.errors import TrineError
from trine.runtime.json_values import is_unicode, parse_json

FIELDS = ("text", "prompt", "response", "messages")


@dataclass(frozen=True)
class Scorable:
    """An answer to score, where it stands (file:line), and the record it was read from."""

    answer: Answer
    place: str
    record: Mapping[str, Any]


def text_to_score(text: str, place: str, record: Mapping[str, Any] | None = None) -> Scorable:
    """A plain text, all of which is scored."""
    return Scorable(Answer((), text, query=""), place, {"text": text} if record is None else record)


def read_answers(path: Path, form: Form) -> Iterator[Scorable]:
    """The lines or records of a file, in order; a file of records is known by its name, compressed or not.

    `form` says what a `prompt` is: what a user said, or the text that `response` continues. Raises `TrineError` naming
    file and line.
    """
    if not is_record_file(path.name):
        with stream_errors(path), open_utf8(path) as stream:
            yield from _lines(stream, str(path))
        return
    for row in read_rows(path, RecordForm(FIELDS)):
        place = f"{path}:{row.line}" if row.line == row.number else f"{path}:{row.line}#{row.number}"
        if row.record is None:
            raise TrineError(f"{place}: {row.reason}")
        yield _of_record({key: as_json(value) for key, value in row.record.items()}, place, form)


def answers_of_stream(stream: IO[bytes] | IO[str], name: str, form: Form) -> Iterator[Scorable]:
    """The lines of standard input: records where the first is a JSON object, else texts."""
    data = _encoded(stream)
    first = next(data, None)
    if first is None:
        return
    whole = _chained(first, data)
    if _record(first) is None:
        yield from _numbered(whole, name)
        return
    for number, line in enumerate(whole, 1):
        record = _record(line)
        if record is None:
            raise TrineError(f"{name}, line {number}: not a JSON object, as the first line is")
        yield _of_record(record, f"{name}, line {number}", form)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _encoded(stream: IO[bytes] | IO[str]) -> Iterator[bytes]:
    for line in stream:
        yield line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")


def _record(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line; None where it is anything else."""
    if not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return None
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _lines(stream: IO[bytes], name: str) -> Iterator[Scorable]:
    yield from _numbered(iter(stream), name, ":")


def _numbered(lines: Iterator[bytes], name: str, between: str = ", line ") -> Iterator[Scorable]:
    for number, line in enumerate(lines, 1):
        data = line.rstrip(b"\r\n")
        place = f"{name}{between}{number}"
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TrineError(f"{place}: {why_not_utf8(data, error.start)}") from None
        yield text_to_score(text.removeprefix("\ufeff") if number == 1 else text, place)


def _of_record(record: Mapping[str, Any], place: str, form: Form) -> Scorable:
    ended = record.get("ended", True)
    if isinstance(ended, str) and ended.lower() in ("true", "false"):  # of a CSV file
        ended = ended.lower() == "true"
    if not isinstance(ended, bool):
        raise TrineError(f"{place}: field 'ended' must be true or false, found {ended!r:.60}")
    columns = {key: value for key, value in record.items() if key not in (*FIELDS, "ended")}
    if "messages" in record:
        prompt, response = _of_messages(record, place)
        return Scorable(Answer(prompt, response, ended, columns=columns), place, record)
    if "response" in record:
        response, asked = _text(record, "response", place), record.get("prompt")
        if isinstance(asked, list):
            return Scorable(Answer(_conversation(asked, place), response, ended, columns=columns), place, record)
        query = _text(record, "prompt", place) if form == "chat" or asked is not None else ""
        if form == "text":
            return Scorable(Answer((), response, ended, columns=columns, query=query), place, record)
        return Scorable(Answer((Message("user", query),), response, ended, columns=columns), place, record)
    if "text" not in record:
        found = ", ".join(map(str, record)) or "none"
        raise TrineError(
            f"{place}: the record has the fields {found:.120}; what is scored is {{text}}, {{prompt, response}} or "
            "{messages}"
        )
    return Scorable(Answer((), _text(record, "text", place), ended, columns=columns, query=""), place, record)


def _of_messages(record: Mapping[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    found = conversations_of([(place, {"messages": record["messages"]})], place).items[0].messages
    if found[-1].role != "assistant":
        raise TrineError(f"{place}: the last of the messages is the {found[-1].role}'s; what is scored is an answer")
    return found[:-1], found[-1].content


def _conversation(turns: list[Any], place: str) -> tuple[Message, ...]:
    """The messages of a prompt, which ends before an answer."""
    marked = [*turns, {"role": "assistant", "content": "-"}]
    return conversations_of([(place, {"messages": marked})], place).items[0].messages[:-1]


def _text(record: Mapping[str, Any], key: str, place: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not is_unicode(value):
        raise TrineError(f"{place}: field {key!r} must be a text, found {value!r:.60}")
    return value
