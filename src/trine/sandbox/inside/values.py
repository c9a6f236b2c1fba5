"""Values as JSON: how code and tests, each in a process of its own, hand each other data and never objects.

What arrives is built by the receiver out of plain types, so that no method of the sender's can take part in a
decision about it. Everything else stays where it is and is named by a number (`Handle`); see `peer.py`. JSON rather
than pickle or marshal, since one side is hostile.

    decode(encode((1, {"a": {2.5}}), export), import_) == (1, {"a": {2.5}})
"""

import builtins
import datetime
import json
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BYTES = 16 * 2**20
MAX_JSON_INTEGER = 2**53
"""Larger ones are written in hexadecimal: Python refuses to read decimal numbers of more than 4,300 digits."""
_SEQUENCES: dict[str, Any] = {"l": list, "t": tuple, "s": set, "f": frozenset, "q": deque}
_MAPPINGS: dict[str, Any] = {"d": dict, "C": Counter, "O": OrderedDict}
_TEXT_FORMS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "i": (int, lambda value: hex(int.__int__(value)), lambda text: int(text, 16)),
    "b": (bytes, bytes.hex, bytes.fromhex),
    "y": (bytearray, bytearray.hex, bytearray.fromhex),
    "D": (Decimal, str, Decimal),
    "F": (Fraction, str, Fraction),
    "dt": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "da": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "tm": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
}
# Subclasses before the classes they derive from: a Counter is a dict, a datetime is a date.
_KINDS: tuple[type, ...] = (
    bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, deque, Counter, OrderedDict, dict,
    range, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, Decimal, Fraction,
)  # fmt: skip


def encode(value: Any, export: Callable[[Any], list[Any]]) -> Any:
    """`value` as what `json` writes; `export` names what is no plain value. Raises RecursionError if it holds itself.

    An instance of a subclass of a plain type (an IntEnum, a named tuple) is sent as the plain value that it holds.
    """
    if value is None or value is True or value is False:
        return value
    kind: Any = next((each for each in _KINDS if issubclass(type(value), each)), None)
    if kind is int and abs(int.__int__(value)) <= MAX_JSON_INTEGER:
        return int.__int__(value)
    if kind is str:
        return str.__str__(value)
    if kind is float:
        return float.__float__(value)
    return export(value) if kind is None else _encode_compound(kind, value, export)


def _encode_compound(kind: Any, value: Any, export: Callable[[Any], list[Any]]) -> list[Any]:
    for tag, sequence in _SEQUENCES.items():
        if kind is sequence:
            return [tag, *(encode(item, export) for item in sequence.__iter__(value))]
    for tag, mapping in _MAPPINGS.items():
        if kind is mapping:
            return [tag, *(encode(each, export) for item in mapping.items(value) for each in item)]
    for tag, (text_kind, write, _) in _TEXT_FORMS.items():
        if kind is text_kind:
            return [tag, write(value)]
    if kind is complex:
        return ["c", complex.real.__get__(value), complex.imag.__get__(value)]  # type: ignore[attr-defined]
    if kind is range:
        return ["r", *(encode(each, export) for each in (value.start, value.stop, value.step))]
    assert kind is datetime.timedelta
    return ["td", value.days, value.seconds, value.microseconds]


def decode(sent: Any, import_: Callable[[list[Any]], Any]) -> Any:
    """The value that `encode` was given; raises ValueError or TypeError on what it never writes."""
    if not isinstance(sent, list):
        if isinstance(sent, dict):
            raise ValueError("a mapping without its tag")
        return sent
    tag, *rest = sent
    if tag in _TEXT_FORMS:
        return _TEXT_FORMS[tag][2](rest[0])
    if tag in _BUILT:
        return _BUILT[tag](*(decode(each, import_) for each in rest))
    return import_(sent)


def _mapping(kind: type) -> Callable[..., Any]:
    return lambda *flat: kind(dict(zip(flat[::2], flat[1::2], strict=True)))


_BUILT: dict[str, Callable[..., Any]] = {
    "c": complex, "r": range, "td": datetime.timedelta,
    **{tag: lambda *items, kind=kind: kind(items) for tag, kind in _SEQUENCES.items()},
    **{tag: _mapping(kind) for tag, kind in _MAPPINGS.items()},
}  # fmt: skip


def exception_name(cls: type[BaseException]) -> str:
    """The nearest built-in class that an exception's class is, or derives from."""
    return next(
        each.__name__ for each in cls.__mro__ if each.__module__ == "builtins" and hasattr(builtins, each.__name__)
    )


def pack(message: Any) -> bytes:
    """A message behind its length. Raises ValueError if it is too long."""
    written = json.dumps(message, separators=(",", ":")).encode()
    if len(written) > MAX_BYTES:
        raise ValueError(f"a value of more than {MAX_BYTES >> 20} MiB")
    return struct.pack("<I", len(written)) + written
