"""From YAML and dotted overrides to a checked config; every mistake is named with the nearest known key.

A key that was renamed is refused with its new name (`config/renamed.py`).
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from trine.config.base import Config
from trine.config.renamed import new_name
from trine.runtime.errors import TrineError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def nearest(key: str, known: Iterable[str]) -> str:
    """'; it is now x' for a key that was renamed, '; did you mean x?' when there is one alike, else all known keys."""
    known = sorted(known)
    renamed = new_name(key, known)
    if renamed:
        return f"; it is now {renamed!r}"
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


def validated(cls: type[AnyConfig], values: dict[str, Any], place: str) -> AnyConfig:
    """`cls` made from `values`; raises `TrineError` naming `place` and the dotted key of every mistake."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise TrineError("\n".join(f"{place}: {_explain(cls, detail)}" for detail in error.errors())) from None


def _explain(cls: type[BaseModel], detail: Any) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(path[-1], _fields_at(cls, path[:-1]))}"
    if detail["type"] == "missing":
        return f"{key!r} is required: {_description(cls, path)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}={detail['input']!r}: {message}" if key else message


def _fields_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part.isdecimal():  # a place in a list of configs
            continue
        annotation = cls.model_fields[part].annotation
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        if not (inner and issubclass(inner[0], BaseModel)):
            return []
        cls = inner[0]
    return list(cls.model_fields)


def _description(cls: type[BaseModel], path: list[str]) -> str:
    return cls.model_fields[path[-1]].description or "" if len(path) == 1 else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file."""
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise TrineError(f"config file {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise TrineError(f"{path}: not readable YAML: {error}") from None
    if not isinstance(values, dict):
        raise TrineError(f"{path}: expected a mapping of config keys")
    return values


def with_override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set dotted `key` in nested `values`."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise TrineError(f"{key} cannot be set: {parent}={values!r} is not a mapping")
    values[last] = value
