"""JSON objects from untrusted files; every error names the file."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.mistaken import mistaken_for


def read_json_object(path: Path, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The object in the JSON file `path`, without its keys `ignored`.

    Raises `TrineError` if the file is missing or holds anything else.
    """
    return without(parse_json_object(read_bytes(path), str(path)), ignored)


def read_bytes(path: Path) -> bytes:
    """The contents of `path`; raises `TrineError` if it is missing or unreadable."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path) -> str:
    """The text of `path`, in UTF-8, without its byte-order mark; errors as in `read_bytes`, and what it is instead."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        words = mistaken_for(data[:100])
        raise TrineError(f"{path} {words}" if words else f"{path} is not readable text: {error}") from None
    if data and mistaken_for(data[:100]):  # readable, and yet another file
        raise TrineError(f"{path} {mistaken_for(data[:100])}")
    return text


def parse_json_object(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8, with a byte-order mark or without.

    A duplicate key is refused, because parsers differ in which value they keep.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # invalid UTF-8 or JSON, too long a number, too deep nesting
        words = mistaken_for(data[:100])
        raise TrineError(f"{place} {words}" if words else f"{place} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise TrineError(f"{place} holds a JSON {type(value).__name__}, not an object")
    return value


def without(described: dict[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """`described` without the keys `ignored`, in the objects that its keys hold too (as `rope_scaling`'s)."""

    def kept(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key not in ignored}

    return {key: kept(value) if isinstance(value, dict) else value for key, value in kept(described).items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        known: set[str] = set()
        twice = next(key for key, _ in pairs if key in known or known.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears more than once")
    return result
