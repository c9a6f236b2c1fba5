"""What is judged in a record (`judgement_forms.py`): a text, or answers and the conversation or text before them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trine.data.conversations import is_list, message_of, messages_of, text_of
from trine.records import Answer, Form, Message
from trine.runtime.errors import TrineError

Record = Mapping[str, Any]
Prompt = tuple[tuple[Message, ...], str | None]
"""messages and None, or no messages and a text that is continued"""

TEXTS = ("text", "sentence", "review", "content")
PROMPTS = ("prompt", "question", "instruction")
RESPONSES = ("response", "completion", "output")
CONVERSATIONS = ("messages", "conversations")
ANSWERS = ("answers", "responses", "completions")
LABELS = ("label", "sentiment", "kto_tag")
SCORES = ("score", "rating", "stars")
ORDERS = ("ranking", "ranks", "scores", "best", "better", "all_bad")
FIELDS = (*TEXTS, *LABELS, *SCORES, "chosen", "rejected", *PROMPTS, *RESPONSES, *CONVERSATIONS, *ANSWERS, *ORDERS)
KNOWN = {
    *TEXTS, *PROMPTS, *RESPONSES, *CONVERSATIONS, *ANSWERS, *ORDERS, "query", "system", "input", "history", "chosen",
    "rejected", "chosen_ended", "rejected_ended", "ended", "margin", "strength", "probability", "tie", "judge",
    "weight", "name", "group",
}  # fmt: skip
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


@dataclass(frozen=True)
class Reading:
    """How records are read.

    `form`: conversations, or plain text that a response continues. `fields`: OURS -> THEIRS, names of fields.
    `positive`: the labels that are good ones, where their names do not say it. `held_out_by`: the field that says which
    records belong together.
    """

    form: Form = "chat"
    fields: Mapping[str, str] = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    held_out_by: str | None = None


def form_of(record: Record) -> Form | None:
    """chat where there are messages, text where there is no prompt; None: a prompt that may be read as either."""
    if "query" in record:
        return "text"
    values = [record[name] for name in (*PROMPTS, *CONVERSATIONS, "chosen") if name in record]
    if any(is_list(value) or isinstance(value, Mapping) or _is_transcript(value) for value in values):
        return "chat"
    return None if any(name in record for name in PROMPTS) else "text"


def prompt_of(record: Record, reading: Reading, place: str) -> Prompt | None:
    """The prompt of a record; None where it has none."""
    if "query" in record:
        return (), text_of(record, "query", place)
    conversation = first_of(record, CONVERSATIONS)
    if conversation:
        return as_chat(tuple(messages_of(record, conversation, place)), reading, place), None
    name = first_of(record, PROMPTS)
    if name is None:
        return None
    system = [Message("system", text_of(record, "system", place))] if record.get("system") else []
    if is_list(record[name]):
        return as_chat((*system, *messages_of(record, name, place)), reading, place), None
    text = text_of(record, name, place)
    if name == "instruction" and record.get("input"):
        text = f"{text}\n{text_of(record, 'input', place)}"
    if reading.form == "text":
        return (), text
    return (*system, Message("user", text)), None


def as_chat(messages: tuple[Message, ...], reading: Reading, place: str) -> tuple[Message, ...]:
    if reading.form == "text":
        raise TrineError(f"{place}: the record is a conversation, and form=text reads plain text: say form=chat")
    return messages


def whole_text(record: Record, reading: Reading, place: str) -> Answer:
    """The one text or answer that a label or score is of."""
    conversation, response = first_of(record, CONVERSATIONS), first_of(record, RESPONSES)
    prompt = prompt_of(record, reading, place)
    if conversation and prompt is not None:
        before, text = _last_answer(prompt[0], conversation, place)
        return answer_to(record, (before, None), text)
    if response and prompt is not None:
        asked, text = side_of(record, response, prompt, reading, place)
        return answer_to(record, prompt if asked is None else (asked, None), text)
    text_field = first_of(record, TEXTS)
    if text_field is None or prompt is not None:
        raise TrineError(
            f"{place}: no text is there to learn from, but the fields {names_of(record)}; known are {{text}}, "
            "{prompt, response}, {messages} and others; name yours by fields, such as --fields text=comment"
        )
    if reading.form == "chat":
        raise TrineError(f"{place}: the record is a text without a prompt: say form=text")
    return answer_to(record, ((), ""), text_of(record, text_field, place))


def _last_answer(turns: Sequence[Message], name: str, place: str) -> tuple[tuple[Message, ...], str]:
    if not turns or turns[-1].role != "assistant":
        raise TrineError(f"{place}: field {name!r} must end with the assistant's message, which is what is judged")
    return tuple(turns[:-1]), turns[-1].content


def answer_to(record: Record, prompt: Prompt, response: str, *, ended: bool | None = None) -> Answer:
    if ended is None:
        ended = truth(record.get("ended", True))
    columns = {key: value for key, value in record.items() if key not in KNOWN and key not in (*LABELS, *SCORES)}
    return Answer(prompt[0], response, ended, columns=columns, query=prompt[1])


def side_of(
    record: Record, name: str, prompt: Prompt | None, reading: Reading, place: str
) -> tuple[tuple[Message, ...] | None, str]:
    """One side of a pair: the messages before the answer (None where the record's own prompt holds), and the answer."""
    value = record[name]
    if isinstance(value, Mapping):
        return None, message_of(value, name, place).content
    if is_list(value):
        turns = tuple(messages_of(record, name, place))
    elif reading.form == "chat" and _is_transcript(value):
        turns = tuple(_transcript(value))
    else:
        return None, text_of(record, name, place)
    asked, text = _last_answer(as_chat(turns, reading, place), name, place)
    if prompt is not None and asked in ((), prompt[0]):
        return None, text
    return asked, text


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"\s*Human:", value) is not None


def _transcript(text: str) -> list[Message]:
    """The turns of Anthropic's "\\n\\nHuman: ...\\n\\nAssistant: ..." (Bai et al. 2022)."""
    parts = _TURN.split(text)[1:]
    return [
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def implicit_prompt(
    sides: Sequence[tuple[tuple[Message, ...] | None, str]], prompt: Prompt | None, reading: Reading, place: str
) -> tuple[Prompt, list[str]]:
    """The prompt, which may be what both sides have in common, and the two answers."""
    (chosen_asked, chosen), (rejected_asked, rejected) = sides
    if chosen_asked is not None and rejected_asked is not None:
        if chosen_asked != rejected_asked:
            raise TrineError(
                f"{place}: chosen and rejected differ before their last answers: one pair needs one prompt"
            )
        return (chosen_asked, None), [chosen, rejected]
    if prompt is not None and chosen_asked is None and rejected_asked is None:
        return prompt, [chosen, rejected]
    if prompt is not None or reading.form == "chat":
        raise TrineError(
            f"{place}: chosen and rejected must both be answers to one prompt, or both whole conversations; of plain "
            "texts without a prompt say form=text"
        )
    shared = common_prefix(chosen, rejected)
    return ((), chosen[:shared]), [chosen[shared:], rejected[shared:]]


def common_prefix(first: str, second: str) -> int:
    """How many characters two texts have in common, up to the end of a word; never all of one of them.

    >>> common_prefix("The cat sat.", "The cat slept.")
    7
    """
    shared = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    shared = min(shared, len(first), len(second))
    text = first[:shared]
    return max((match.start() for match in re.finditer(r"\s", text)), default=0)


def answers_of(record: Record, reading: Reading, place: str) -> tuple[Answer, ...]:
    name = named(record, ANSWERS)
    values, prompt = record[name], prompt_of(record, reading, place)
    if not is_list(values) or not values:
        raise TrineError(f"{place}: field {name!r} must be a list of answers, found {values!r:.60}")
    if prompt is None and reading.form == "chat":
        raise TrineError(f"{place}: the answers have no prompt; of plain texts say form=text")
    found = []
    for index, value in enumerate(values):
        inner = dict(value) if isinstance(value, Mapping) else {"response": value}
        key = first_of(inner, (*RESPONSES, *TEXTS, "value"))
        if key is None:
            raise TrineError(f"{place}: field '{name}[{index}]' must be a text or {{response}}, found {value!r:.60}")
        text = text_of(inner, key, place, f"{name}[{index}]")
        found.append(answer_to(record, prompt or ((), ""), text, ended=truth(inner.get("ended", True))))
    return tuple(found)


def first_of(record: Record, names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def named(record: Record, names: Sequence[str]) -> str:
    name = first_of(record, names)
    assert name is not None
    return name


def names_of(record: Record) -> str:
    return f"{', '.join(map(str, record)):.120}"


def truth(value: Any) -> bool:
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)
