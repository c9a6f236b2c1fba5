"""Prompts and answers as text: how rewards that are not ours are shown them, and how errors name them."""

from collections.abc import Sequence

from trine.records import Answer, Message

SHOWN = 60


def prompt_text(messages: Sequence[Message]) -> str:
    """A conversation as text: one message as it is, several each behind its role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def asked(answer: Answer) -> str:
    """What the answer answers: the conversation as text, or the text that it continues."""
    return prompt_text(answer.prompt) if answer.query is None else answer.query


def told_answer(answer: Answer) -> str:
    """The answer in an error's words.

    >>> told_answer(Answer((Message("user", "2 + 2?"),), "4"))
    "the response '4' to the prompt '2 + 2?'"
    """
    return f"the response {answer.response[:SHOWN]!r} to the prompt {asked(answer)[:SHOWN]!r}"
