"""Prompts as a Python program writes them: a text, or a conversation of {"role", "content"} or `Message`."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, cast, get_args

from trine.records import Message, Role
from trine.runtime.errors import TrineError

Turn = Message | Mapping[str, str]
Conversation = Sequence[Turn]
Prompt = str | Conversation

ROLES: tuple[str, ...] = get_args(Role)


def messages_of(conversation: object) -> tuple[Message, ...]:
    """The conversation as messages. Raises `TrineError` where it is none, or has a turn that is none."""
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence) or not conversation:
        raise TrineError(
            f'a conversation is a list of {{"role": ..., "content": ...}} (roles: {", ".join(ROLES)}), '
            f"found {conversation!r:.60}"
        )
    return tuple(_message(turn, number) for number, turn in enumerate(conversation))


def question(prompt: object) -> tuple[Message, ...]:
    """A prompt as messages: a text is what the user says."""
    return (Message("user", prompt),) if isinstance(prompt, str) else messages_of(prompt)


def is_many(prompts: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether these are several prompts, rather than a text or one conversation."""
    return isinstance(prompts, list | tuple) and not (prompts and isinstance(prompts[0], Message | Mapping))


def paired(prompts: Any, responses: Any) -> list[tuple[Any, str]]:
    """Each prompt with its response. Raises `TrineError` where there are not as many of both."""
    if not is_many(prompts) or len(prompts) != len(responses):
        count = len(prompts) if is_many(prompts) else 1
        raise TrineError(f"{count} prompts come with {len(responses)} responses; give a list of one for each")
    return list(zip(prompts, responses, strict=True))


def _message(turn: Any, number: int) -> Message:
    values = {"role": turn.role, "content": turn.content} if isinstance(turn, Message) else turn
    if not isinstance(values, Mapping) or values.keys() != {"role", "content"}:
        raise TrineError(f'message {number} is {turn!r:.60}; write {{"role": ..., "content": ...}}')
    role, content = values["role"], values["content"]
    if role not in ROLES:
        from trine.config.loading import nearest

        raise TrineError(f"message {number} has role {role!r}{nearest(str(role), ROLES)}")
    if not isinstance(content, str):
        raise TrineError(f"message {number} has content {content!r:.60}, which is no text")
    return Message(cast(Role, role), content)
