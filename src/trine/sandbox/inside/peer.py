"""Two processes that call each other: the one that holds the code under test, and the one that holds the tests.

One request is open at a time and is answered before the one that it arose in (a test calls a function, which calls a
function that the test handed it). Plain values cross as data (`values.py`); anything else crosses as a `Handle` and
what may be done with it is what `operations` of the side that owns it has.
"""

import builtins
import itertools
import json
import operator
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from trine.sandbox.inside.values import MAX_BYTES, decode, encode, exception_name, pack

Operation = Callable[..., Any]

PLAIN_OPERATIONS: dict[str, Operation] = {
    "call": lambda target, args, named: target(*args, **named),
    "iter": iter,
    "next": lambda target: list(itertools.islice(target, 1)),
    "bool": bool,
}
OBJECT_OPERATIONS: dict[str, Operation] = PLAIN_OPERATIONS | {
    "getattr": getattr, "setattr": setattr, "delattr": delattr, "len": len, "str": str, "repr": repr,
    "isinstance": lambda cls, value: isinstance(value, cls), "issubclass": lambda cls, value: issubclass(value, cls),
    "enter": lambda target: type(target).__enter__(target), "round": round, "format": format,
    "exit": lambda target: type(target).__exit__(target, None, None, None),
    **{name: getattr(operator, name) for name in (
        "eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_",
        "xor", "lshift", "rshift", "neg", "pos", "invert", "abs", "getitem", "setitem", "delitem", "contains", "index",
    )},
    "int": int, "float": float, "reversed": reversed,
}  # fmt: skip
_CALLABLE, _ITERATOR, _OTHER = "callable", "iterator", "object"


class Gone(BaseException):
    """The other process ended, or says what it may not."""


class Peer:
    """One end of the connection. `make_handle(peer, number, kind, class name)` stands for an object of the other."""

    def __init__(
        self, connection: socket.socket, operations: dict[str, Operation], make_handle: "Callable[..., Any]"
    ) -> None:
        self.stream = connection.makefile("rwb")
        self.operations = operations
        self.make_handle = make_handle
        self.write_back = False
        self.gone = False
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._classes: dict[int, type[BaseException]] = {}

    # Messages

    def send(self, message: Any) -> None:
        self.stream.write(pack(message))
        self.stream.flush()

    def receive(self) -> Any:
        """The next message. Raises `Gone` where there is none, or none that could be."""
        try:
            (length,) = struct.unpack("<I", self._exactly(4))
            if length > MAX_BYTES:
                raise ValueError("a message that is too long")
            return json.loads(self._exactly(length))
        except (OSError, ValueError, RecursionError, struct.error, MemoryError) as error:
            self.gone = True
            raise Gone(str(error)) from None

    def _exactly(self, count: int) -> bytes:
        read = self.stream.read(count)
        if len(read) < count:
            raise ValueError("it ended")
        return read

    def request(self, operation: str, target: Any, *given: Any) -> Any:
        """What the other side's `operation` makes of an object of its own; raises what it raised."""
        if self.gone:
            raise Gone("it ended")
        try:
            self.send({"op": operation, "target": target, "given": [self.encode(each) for each in given]})
        except OSError as error:
            self.gone = True
            raise Gone(str(error)) from None
        while "op" in (message := self._answer_or_request()):
            self.answer(message)
        return self._result(message, given)

    def _answer_or_request(self) -> dict[str, Any]:
        message = self.receive()
        if not isinstance(message, dict) or not {"op", "value", "error"} & message.keys():
            self.gone = True
            raise Gone("what it wrote is no answer")
        return message

    def _result(self, message: dict[str, Any], given: tuple[Any, ...]) -> Any:
        try:
            if "error" in message:
                cls, args = message["error"]
                error = _made(self.decode(cls), self.decode(args))
            else:
                for index, changed in message.get("changed", []):
                    _put_back(given[0][index], self.decode(changed))
                return self.decode(message["value"])
        except Exception as wrong:
            self.gone = True
            raise Gone(f"what it wrote is no answer ({type(wrong).__name__})") from None
        if not isinstance(error, BaseException):
            self.gone = True
            raise Gone("what it raised is no exception")
        raise error

    # Answers

    def answer(self, message: dict[str, Any]) -> None:
        """Do what the other side asks for, and tell what came of it."""
        try:
            target = message["target"]
            owner = self._objects[target] if isinstance(target, int) else self.find(target)
            given = [self.decode(each) for each in message["given"]]
            changeable = given[0] if message["op"] == "call" and self.write_back else []
            before = self._states(changeable)
            reply = {"value": self.encode(self.operations[message["op"]](owner, *given))}
            states = enumerate(zip(before, self._states(changeable), strict=True))
            changed = [(index, after) for index, (was, after) in states if was != after]
            packed = pack(reply | ({"changed": changed} if changed else {}))
        except BaseException as error:  # code under test raises anything
            packed = pack({"error": self._encode_error(error)})
        self.stream.write(packed)
        self.stream.flush()

    def find(self, name: Any) -> Any:
        """An object that the other side asks for by name."""
        raise LookupError(name)

    def _states(self, args: list[Any]) -> list[Any]:
        """What the arguments of a call hold, so that it shows which ones the call changed."""
        return [self.encode(each) if type(each) in _CHANGEABLE else None for each in args]

    def _encode_error(self, error: BaseException) -> list[Any]:
        try:
            args = self.encode(error.args)
            if len(json.dumps(args)) > 4096:
                raise ValueError
        except Exception:
            args = ["t", _shown(error)]
        return [self.export(type(error)), args]

    # Values

    def encode(self, value: Any) -> Any:
        return encode(value, self.export)

    def decode(self, sent: Any) -> Any:
        return decode(sent, self._import)

    def export(self, value: Any) -> list[Any]:
        """A name for an object that stays here; one that came from there goes back as itself."""
        if isinstance(value, Handle) and value._peer is self:
            return ["yours", value._number]
        if isinstance(value, type) and issubclass(value, BaseException):
            known = next((number for number, cls in self._classes.items() if cls is value), None)
            own = value.__module__ != "builtins"
            return (
                ["yours", known]
                if known is not None
                else ["x", self._number(value) if own else -1, value.__name__, exception_name(value)]
            )
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and getattr(builtins, name, self) is value:
            return ["builtin", name]
        kind = _CALLABLE if callable(value) else _ITERATOR if isinstance(value, Iterator) else _OTHER
        return ["o", self._number(value), kind, type(value).__name__]

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # which also keeps its id its own
        return number

    def _import(self, sent: list[Any]) -> Any:
        tag, first, *rest = sent
        if tag == "yours":
            return self._objects[first]
        if tag == "builtin":
            return getattr(builtins, first)
        if tag == "o":
            return self.make_handle(self, first, *rest)
        if tag != "x":
            raise ValueError(f"tag {tag!r}")
        name, base = rest
        parent = getattr(builtins, base)
        if not (isinstance(parent, type) and issubclass(parent, BaseException)):
            raise ValueError("no exception")
        if first < 0:
            return parent
        return self._classes.setdefault(first, type(str(name), (parent,), {}))


class Handle:
    """An object of the other process, known here by a number. Equal to itself alone, whatever it would say."""

    def __init__(self, peer: Peer, number: int, kind: str, class_name: str) -> None:
        self._peer, self._number, self._kind, self._class_name = peer, int(number), str(kind), str(class_name)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._peer.request("call", self._number, list(args), named)

    def __iter__(self) -> Iterator[Any]:
        iterator = self if self._kind == _ITERATOR else self._peer.request("iter", self._number)
        return iterator if iterator is self else iter(iterator)

    def __next__(self) -> Any:
        found = self._peer.request("next", self._number)
        if not isinstance(found, list) or len(found) > 1:
            raise Gone("what it wrote is no answer")
        if not found:
            raise StopIteration
        return found[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other._number == self._number

    def __hash__(self) -> int:
        return hash(("handle", self._number))

    def __bool__(self) -> bool:
        """What the code's object says: as good as its having returned True or False."""
        return bool(self._peer.request("bool", self._number) is True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._refused()

    def __repr__(self) -> str:
        return f"<{self._class_name} of the code>"

    def _refused(self) -> TypeError:
        return TypeError(
            f"the tests use the value of an object of class {self._class_name}, which the code itself would say; "
            "set objects in the limits if tests are to believe its objects"
        )


_OWN_FIELDS = {"_peer", "_number", "_kind", "_class_name"}


class ObjectHandle(Handle):
    """A handle that passes everything on: for tests of classes, which believe what the code's objects say."""

    def __getattr__(self, name: str) -> Any:
        return self._peer.request("getattr", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN_FIELDS:
            object.__setattr__(self, name, value)
        else:
            self._peer.request("setattr", self._number, name, value)

    def __eq__(self, other: object) -> bool:
        """Never equal to a plain value: that it is one is not for the code to say."""
        return isinstance(other, Handle) and bool(self._peer.request("eq", self._number, other))

    __hash__ = Handle.__hash__


def _forward(operation: str, *, wanted: type | None = None) -> Callable[..., Any]:
    def method(self: ObjectHandle, *given: Any) -> Any:
        value = self._peer.request(operation, self._number, *given)
        return value if wanted is None else wanted(value)

    return method


def _reflected(operation: str) -> Callable[..., Any]:
    def method(self: ObjectHandle, other: Any) -> Any:
        """The right operand's side: its process calls the operator with both."""
        return self._peer.request("reflected", self._number, operation, other)

    return method


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
for _name in _BINARY:
    _operation = f"{_name}_" if _name in {"and", "or"} else _name
    setattr(ObjectHandle, f"__{_name}__", _forward(_operation))
    setattr(ObjectHandle, f"__r{_name}__", _reflected(_operation))
for _name in (
    "lt",
    "le",
    "gt",
    "ge",
    "neg",
    "pos",
    "invert",
    "abs",
    "getitem",
    "setitem",
    "delitem",
    "round",
    "reversed",
):
    setattr(ObjectHandle, f"__{_name}__", _forward(_name))
for _name, _wanted in (("len", int), ("str", str), ("repr", str), ("contains", bool), ("int", int),
                       ("float", float), ("index", int), ("format", str)):  # fmt: skip
    setattr(ObjectHandle, f"__{_name}__", _forward(_name, wanted=_wanted))
ObjectHandle.__instancecheck__ = _forward("isinstance", wanted=bool)  # type: ignore
ObjectHandle.__subclasscheck__ = _forward("issubclass", wanted=bool)  # type: ignore
ObjectHandle.__enter__ = _forward("enter")  # type: ignore
ObjectHandle.__exit__ = lambda self, *error: bool(self._peer.request("exit", self._number))  # type: ignore
OBJECT_OPERATIONS["reflected"] = lambda target, operation, other: OBJECT_OPERATIONS[operation](other, target)

_CHANGEABLE = (list, dict, set, bytearray)


def _put_back(mine: Any, theirs: Any) -> None:
    """Give a list, dict, set or bytearray the contents that the code left its copy with."""
    if type(mine) is not type(theirs) or type(mine) not in _CHANGEABLE:
        raise TypeError("another type")
    if isinstance(mine, list | bytearray):
        mine[:] = theirs
    else:
        mine.clear()
        mine.update(theirs)


def _made(cls: Any, args: tuple[Any, ...]) -> Any:
    try:
        return cls(*args)
    except TypeError:  # a class that wants other arguments than those it keeps
        error = cls.__new__(cls)
        error.args = args
        return error


def _shown(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return ""
