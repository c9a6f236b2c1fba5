"""Policies and users to talk with: small models, and functions that answer them."""

from typing import Any


def curious(messages: list[dict[str, str]]) -> str | None:
    """Asks twice more, whatever it is told."""
    said = sum(message["role"] == "user" for message in messages)
    return f"And {said}?" if said < 3 else None


def silent(messages: list[dict[str, str]]) -> None:
    """Is content at once."""


def exacting(messages: list[dict[str, str]], answer: str) -> str | None:
    """Asks on until it hears the field `answer` of the prompt's record."""
    return None if answer in messages[-1]["content"] else "No."


def rude(messages: list[dict[str, str]], **columns: Any) -> int:
    """Says what is no message."""
    return 7


def broken(messages: list[dict[str, str]]) -> str:
    raise ZeroDivisionError("division by zero")
