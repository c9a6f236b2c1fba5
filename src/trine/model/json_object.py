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
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None
    return without(parse_json_object(data, str(path)), ignored)


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
    """`described` without the keys `ignored`, in the objects inside it too (as those of `rope_scaling`)."""
    return {
        key: without(value, ignored) if isinstance(value, dict) else value
        for key, value in described.items()
        if key not in ignored
    }


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} appears more than once")
        result[key] = value
    return result
