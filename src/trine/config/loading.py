"""From YAML and dotted overrides to a checked config; every mistake is named with the nearest known key.

A key that was renamed is refused with its new name (`config/renamed.py`).
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trine.config.base import Config
from trine.config.renamed import new_name, why_refused
from trine.config.resumption import with_inputs
from trine.config.values import Refused
from trine.config.yaml_text import read_file, read_mapping
from trine.runtime.errors import TrineError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def nearest(key: str, known: Iterable[str]) -> str:
    """'; it is now x' for a key that was renamed, why one is refused, '; did you mean x?' when there is one alike, else
    all known keys."""
    known = sorted(known)
    renamed = new_name(key, known)
    if renamed:
        return f"; it is now {renamed!r}"
    refused = why_refused(key, known)
    if refused:
        return f": {refused}"
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


Place = str | Callable[[str], str]
"""where values come from: a file or a command, or which of several, by the dotted key"""


def validated(cls: type[AnyConfig], values: Mapping[str, Any], place: Place) -> AnyConfig:
    """`cls` made from `values`; raises `TrineError` naming `place` and the dotted key of every mistake."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        mistakes = [(".".join(map(str, detail["loc"])), _explain(cls, detail)) for detail in error.errors()]
        lines = [f"{place(key) if callable(place) else place}: {words}" for key, words in mistakes]
        raise TrineError("\n".join(dict.fromkeys(lines))) from None


def _explain(cls: type[BaseModel], detail: Any) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(path[-1], _fields_at(cls, path[:-1]))}"
    if detail["type"] == "missing":
        return f"{key!r} is required: {_description(cls, path)}"
    message = _words(detail)
    return f"{key}={detail['input']!r}: {message}" if key else message


def _words(detail: Any) -> str:
    """What is wrong with a value, and how it is written."""
    value = detail["input"]
    if isinstance(value, Refused):
        return value.reason
    if value is None and detail["type"].endswith(("_type", "_parsing", "_error")) and detail["type"] != "value_error":
        return "a value is needed here, and null is none; with quotes around it, 'null' is a text"
    return _HOW_WRITTEN.get(detail["type"]) or str(detail["msg"]).removeprefix("Value error, ")


_INTEGER = "not a whole number, an integer: write 1000000, 1_000_000, 1e6 or 1M"
_HOW_WRITTEN = {
    "int_parsing": _INTEGER,
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "float_parsing": "not a number: write 0.001, 1e-3 or 100k",
    "float_type": "not a number: write 0.001, 1e-3 or 100k",
    "finite_number": "not a finite number",
    "bool_parsing": "neither true nor false",
    "bool_type": "neither true nor false",
    "string_type": "not a text",
    "path_type": "not a path",
    "dict_type": "not a mapping: write {key: value}",
    "model_type": "not a mapping: write {key: value}",
}


def _fields_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part not in cls.model_fields:  # a place in a list of configs, or which of several types the value is of
            continue
        inner = next(_configs_in(cls.model_fields[part].annotation), None)
        if inner is None:
            return []
        cls = inner
    return list(cls.model_fields)


def _configs_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The config classes that a type names."""
    if isinstance(kind, type) and not get_args(kind) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _configs_in(inner)


def _description(cls: type[BaseModel], path: list[str]) -> str:
    return cls.model_fields[path[-1]].description or "" if len(path) == 1 else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file, its values still to be read by the fields they are for."""
    return read_mapping(read_file(path), str(path))


def read_config_file(path: Path, cls: type[Config]) -> dict[str, Any]:
    """`read_yaml`; in config.yaml of a run folder, paths are seen from that folder."""
    values, folder = read_yaml(path), path.parent
    if not (folder / "run.json").exists():
        return values

    def seen(place: str) -> str:
        return str(folder / place) if place and (folder / place).exists() else place

    return with_inputs(cls, values, seen) | ({"out": seen(values["out"])} if "out" in values else {})


def with_override(values: dict[str, Any], key: str | Sequence[str], value: Any) -> None:
    """Set dotted `key`, or the key of these parts, in nested `values`."""
    *parents, last = key.split(".") if isinstance(key, str) else key
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise TrineError(f"{'.'.join((*parents, last))} cannot be set: {parent}={values!r} is not a mapping")
    values[last] = value
