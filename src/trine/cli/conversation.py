"""A conversation: its system prompt and its turns, what of it fits the model's context, and its file.

The file is JSON in the messages form, `{"messages": [{"role": "user", "content": "..."}, ...]}`. Turns alternate, the
person's first, so that a chat template can write them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trine.records import Message
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_text
from trine.tokenizer.chat_format import Chat


@dataclass(frozen=True)
class FittingPrompt:
    """Token ids of the most recent turns, and how many earlier turns (question and answer) they leave out."""

    ids: list[int]
    dropped: int


@dataclass
class Conversation:
    """Messages of the person and the model in turn; the last may be a question without an answer."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether the last message is an answer."""
        return bool(self.messages) and self.messages[-1].role == "assistant"

    def prompt(self, chat: Chat, room: int) -> FittingPrompt:
        """Ids of the messages up to the last question, without as many of the oldest turns as exceed `room` tokens."""
        opening = [] if self.system is None else [Message("system", self.system)]
        messages = self.messages[:-1] if self.answered else self.messages
        ids: Sequence[int] = ()
        for start in range(0, len(messages), 2):
            ids = chat.prompt_ids([*opening, *messages[start:]])
            if len(ids) <= room:
                return FittingPrompt(list(ids), start // 2)
        raise TrineError(
            f"the question has {len(ids)} tokens, more than the {room} the model's context leaves; shorten it"
        )

    def save(self, path: Path) -> None:
        """Write all messages, atomically."""
        opening = [] if self.system is None else [Message("system", self.system)]
        messages = [{"role": each.role, "content": each.content} for each in [*opening, *self.messages]]
        write_text(path, json.dumps({"messages": messages}, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        """The conversation in `path`; raises `TrineError` naming file and message where it is none."""
        value = read_json(path)
        rows = value.get("messages") if isinstance(value, dict) else value
        if not isinstance(rows, list):
            raise TrineError(f'{path} holds no conversation: expected {{"messages": [...]}}, found {value!r:.60}')
        messages = [_message(row, f"{path}: message {number}") for number, row in enumerate(rows, 1)]
        system = messages.pop(0).content if messages and messages[0].role == "system" else None
        for number, message in enumerate(messages):
            if message.role != ("user", "assistant")[number % 2]:
                place = number + 1 + (system is not None)
                raise TrineError(
                    f"{path}: message {place} is of the {message.role}; user and assistant must alternate, user first"
                )
        return cls(system, messages)


def _message(row: Any, place: str) -> Message:
    role, content = (row.get("role"), row.get("content")) if isinstance(row, dict) else (None, None)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise TrineError(f"{place} must have a role (system, user, assistant) and content (a text), found {row!r:.60}")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TrineError(f"{place} has half of a surrogate pair at character {error.start + 1}") from None
    return Message(role, content)
