"""JSON objects that others wrote: read with an error that names the file, whatever is in it."""

import json
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`; `TrineError` where the file is missing or holds anything else."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, place: str) -> dict[str, Any]:
    """The JSON object that `data` spells in UTF-8. A key given twice is refused: readers differ in which one counts."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, numbers or nesting beyond measure
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
