"""JSON objects from untrusted files; every error names the file."""

import codecs
import json
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`; raises `TrineError` if the file is missing or holds anything else."""
    return parse_json_object(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The contents of `path`; raises `TrineError` if it is missing, unreadable or a git-lfs pointer."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None
    if data.startswith(_LFS_POINTER):
        raise TrineError(f"{path} is a git-lfs pointer, not the file itself; fetch the files with: git lfs pull")
    return data


def parse_json_object(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8, with or without BOM.

    A duplicate key is refused, because parsers differ in which value they keep.
    """
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # invalid UTF-8 or JSON, too long a number, too deep nesting
        raise TrineError(f"{place} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise TrineError(f"{place} holds a JSON {type(value).__name__}, not an object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        known: set[str] = set()
        twice = next(key for key, _ in pairs if key in known or known.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears more than once")
    return result
