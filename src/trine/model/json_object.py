"""JSON objects from untrusted files; every error names the file."""

import json
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`; raises `TrineError` if the file is missing or holds anything else."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8. A duplicate key is refused, because parsers differ in which value they keep."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # invalid UTF-8 or JSON, too long a number, too deep nesting
        raise TrineError(f"{place} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise TrineError(f"{place} holds a JSON {type(value).__name__}, not an object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} appears more than once")
        result[key] = value
    return result
