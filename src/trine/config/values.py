"""What people write, read by the type of the field it is for: in options, YAML, recipes and Python alike.

    a number    1e6, 100k, 2M, 1_000_000; of bytes also 64KiB, 2GB       a text    as it stands: null, true and 1e5 too
    a path      ~ and a leading $NAME are expanded                       a list    one item may stand alone

YAML without quotes (`Plain`) is text until a field's type says what it is; what has quotes is text for good. A value
that cannot be read is left as it is, so that the class refuses it, or becomes a `Refused` with the reason.
"""

import os
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

NULLS = ("", "~", "null", "Null", "NULL")
UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
# Of bytes, B is the byte itself.
BYTE_UNITS = (
    {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "B": 1}
    | {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
)
_NUMBER = re.compile(r"([+-]?[0-9_]*\.?[0-9_]*(?:[eE][+-]?[0-9]{1,3})?) ?([A-Za-z]*)")
_UNDERSCORES = re.compile(r"_(?![0-9])|(?<![0-9])_")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})(?=/|$)")
_CORE_INT = re.compile(r"[-+]?[0-9]+")
_CORE_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
MAX_DIGITS = 400


class Plain(str):
    """Text without quotes: the field's type says what it is. To a number 1e6 is a number, to a text the text 1e6."""

    __slots__ = ()


@dataclass(frozen=True)
class Refused:
    """A value that no field takes, and why."""

    text: str
    reason: str

    def __repr__(self) -> str:
        return repr(self.text)


class Marker:
    """Tells how a field's text is read, where its type alone does not: `Annotated[int, BYTES]`."""


BYTES = Marker()
"""a number of bytes: 64KiB, 2GB"""
WORD = Marker()
"""a short name, in which no comma can stand, so that commas may separate the items of a list"""
AS_WRITTEN = Marker()
"""left as it is; whoever takes it knows what it is for"""


def read_fields(cls: type[BaseModel], values: Any) -> Any:
    """Each value as the field of its name reads it, also of nested configs; anything but a mapping as it is."""
    if not isinstance(values, Mapping):
        return values
    fields = cls.model_fields
    return {key: read(kind_of(fields[key]), value) if key in fields else value for key, value in values.items()}


def kind_of(field: FieldInfo) -> Any:
    """The field's type as it is written in the class, `Annotated` included."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def read(kind: Any, value: Any) -> Any:  # noqa: PLR0911  (one return for each form of type)
    """`value` as a field of type `kind` reads it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if AS_WRITTEN in inner:
            return value
        return _whole(value, BYTE_UNITS) if BYTES in inner else read(inner[0], value)
    if value is None or (isinstance(value, Plain) and value in NULLS):
        return None
    if origin in (Union, types.UnionType):
        return _read_one_of([each for each in inner if each is not type(None)], value)
    if origin is Literal:
        return next((each for each in inner if isinstance(value, str) and str(each) == value), _text(value))
    if origin in (tuple, list):
        return [read(inner[0], item) for item in items_of(value)]
    if origin is dict:
        return {str(key): read(inner[1], each) for key, each in value.items()} if _is_mapping(value) else value
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return read_fields(kind, value)
    return _READERS.get(kind, _text)(value)


def items_of(value: Any) -> list[Any]:
    """The items of a list, of any kind; a value that is none is its only item."""
    one = isinstance(value, str | bytes | Mapping | os.PathLike | BaseModel) or not isinstance(value, Iterable)
    return [value] if one else list(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _read_one_of(kinds: list[Any], value: Any) -> Any:
    """A union's first type that reads the value's form; text is what no other type reads."""
    if len(kinds) == 1:
        return read(kinds[0], value)
    wanted = dict if _is_mapping(value) else str if isinstance(value, str) else tuple
    if wanted is not str:
        return read(next((each for each in kinds if get_origin(bare(each)) is wanted), kinds[0]), value)
    results = [read(each, value) for each in kinds if each is not str]
    return next((result for result in results if not isinstance(result, str)), _text(value))


def bare(kind: Any) -> Any:
    """A type without `Annotated` and without None."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return bare(inner[0])
    if origin in (Union, types.UnionType):
        others = [each for each in inner if each is not type(None)]
        return bare(others[0]) if len(others) == 1 else kind
    return kind


def resolved(value: Any) -> Any:  # noqa: PLR0911
    """What YAML 1.2 (core schema) says that text without quotes is; for values that no type describes."""
    if isinstance(value, Mapping):
        return {str(key): resolved(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value in NULLS:
        return None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if len(value) <= MAX_DIGITS and _CORE_INT.fullmatch(value):
        return int(value)
    return float(value) if len(value) <= MAX_DIGITS and _CORE_FLOAT.fullmatch(value) else str(value)


def number(text: str, units: Mapping[str, int] = UNITS) -> Fraction | None:
    """The number that people write as `text`, exactly; None where it is none."""
    found = _NUMBER.fullmatch(text.strip()) if len(text) <= MAX_DIGITS else None
    if found is None or found[2] not in units or _UNDERSCORES.search(found[1]):
        return None
    try:
        return Fraction(found[1].replace("_", "")) * units[found[2]]
    except ValueError:  # no digit at all
        return None


def _whole(value: Any, units: Mapping[str, int] = UNITS) -> Any:
    found = number(value, units) if isinstance(value, str) else None
    if found is not None and found.denominator == 1:
        return int(found)
    return str(value) if isinstance(value, bool | str) else value  # True is no number


def _real(value: Any) -> Any:
    found = number(value) if isinstance(value, str) else None
    try:
        return float(found) if found is not None else str(value) if isinstance(value, bool | str) else value
    except OverflowError:
        return str(value)


def _truth(value: Any) -> Any:
    return str(value).strip().lower() if isinstance(value, str) else value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return Refused(str(value), "is not UTF-8 text")
    return str(value)


def expanded(value: Any) -> Any:
    """A path with ~ and a leading $NAME or ${NAME} expanded, as a shell does."""
    if not isinstance(value, str | os.PathLike):
        return value
    text = str(os.fspath(value))
    if not text.strip() or "\0" in text:
        return Refused(text, "names no file or folder; write . for the working directory")
    variable = _VARIABLE.match(text)
    if variable is not None:
        name = variable[1] or variable[2]
        if not os.environ.get(name):
            return Refused(text, f"the environment variable {name} is not set")
        text = os.environ[name] + text[variable.end() :]
    return Path(os.path.expanduser(text))  # noqa: PTH111  (an unknown ~user stays, as in a shell)


_READERS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _real,
    bool: _truth,
    Path: expanded,
    Any: resolved,
}
