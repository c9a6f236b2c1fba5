"""Values as people, NumPy and JSON give them, made into what requests hold; what cannot be is refused by its name.

A whole number may be an int, a NumPy or PyTorch scalar, or a float without a fraction. A bool is none: where a number
is meant it is a slip. A list may be any iterable but text, a mapping or nested lists; one item may stand for its list.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trine.runtime.errors import TrineError

MAX_WHOLE = 2**64  # seeds are of 64 bits; nothing else comes near
Item = TypeVar("Item")


def shown(value: object) -> str:
    """`value` for a message: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a repr of somebody else's, or an int of more digits than Python prints
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def whole_number(name: str, value: object) -> int:
    """Raises `TrineError` naming `name` where `value` is no whole number."""
    number = _scalar(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TrineError(f"{name}={shown(value)} is not a whole number")
    if abs(number) >= MAX_WHOLE:
        raise TrineError(f"{name}={shown(value)} is beyond the 64 bits that numbers have here")
    return int(number)


def real_number(name: str, value: object) -> float:
    """Raises `TrineError` naming `name` where `value` is no number."""
    number = _scalar(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TrineError(f"{name}={shown(value)} is not a number")
    try:
        return float(number)
    except OverflowError:
        raise TrineError(f"{name}={shown(value)} is beyond what a number can hold") from None


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """A list of token ids, in the vocabulary or not."""
    items = item_list(name, value, "token ids")
    if all(type(each) is int and -MAX_WHOLE < each < MAX_WHOLE for each in items):
        return tuple(items)
    return tuple(_token_id(name, place, each) for place, each in enumerate(items))


def _token_id(name: str, place: int, value: object) -> int:
    try:
        return whole_number(name, value)
    except TrineError:
        raise TrineError(f"{name} holds {shown(value)} at place {place}, which is not a token id") from None


def one_or_more_ids(name: str, value: object) -> tuple[int, ...]:
    """Token ids, or one."""
    return token_ids(name, value if _is_several(value) else [value])


def texts(name: str, value: object) -> tuple[str, ...]:
    """Texts, or one; none of them empty."""
    items = [value] if isinstance(value, str) else item_list(name, value, "texts")
    return tuple(text(name, each) for each in items)


def text(name: str, value: object) -> str:
    """A text that is not empty and that UTF-8 can hold."""
    if not isinstance(value, str):
        raise TrineError(f"{name}={shown(value)} is not a text")
    try:
        sound = bool(value.encode())
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise TrineError(f"{name}={shown(value)} is an empty string, or one that is no valid text")
    return str(value)


def bias_pairs(name: str, value: object) -> tuple[tuple[int, float], ...]:
    """Pairs of a token id and what is added to its logit, or a mapping; no id twice."""
    given = list(value.items()) if isinstance(value, Mapping) else item_list(name, value, "pairs of token id and bias")
    pairs = tuple(_bias_pair(name, each) for each in given)
    seen: set[int] = set()
    for token_id, _ in pairs:
        if token_id in seen:
            raise TrineError(f"{name} names token {token_id} twice; give one bias for each token")
        seen.add(token_id)
    return pairs


def _bias_pair(name: str, value: object) -> tuple[int, float]:
    pair = item_list(name, value, "pairs of token id and bias")
    if len(pair) != 2:
        raise TrineError(f"{name} holds {shown(value)}; give pairs of token id and bias")
    return whole_number(f"{name}: the token id", pair[0]), real_number(f"{name} of token {shown(pair[0])}", pair[1])


def item_list(name: str, value: Any, what: str) -> list[Any]:
    """The items of a list, in the types of Python; a set's in order."""
    if not _is_several(value):
        raise TrineError(f"{name}={shown(value)} is no list of {what}")
    try:
        if hasattr(value, "tolist"):  # an array or tensor
            return list(value.tolist())
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    except Exception as error:  # whatever somebody else's iterable raises
        raise TrineError(f"{name}={shown(value)} cannot be read as a list of {what}: {error!r}") from error


def callback(name: str, value: object) -> None:
    """Raises `TrineError` unless `value` is a function, or None."""
    if value is not None and not callable(value):
        raise TrineError(f"{name}={shown(value)} is not a function")


def one_of(name: str, value: object, *kinds: Item) -> Item:
    """`value`, which has to be one of `kinds`."""
    for kind in kinds:
        if type(value) is type(kind) and value == kind:
            return kind
    raise TrineError(f"{name}={shown(value)} is none of {', '.join(map(str, kinds))}")


def normalized(target: object, normalizers: Mapping[str, Callable[[str, Any], object]]) -> None:
    """Replace fields of a frozen dataclass, while it is made, by what their normalizers make of them."""
    for name, normalize in normalizers.items():
        object.__setattr__(target, name, normalize(name, getattr(target, name)))


def _scalar(value: Any) -> Any:
    """A NumPy or PyTorch number as Python's own."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:  # a tensor without content, say
        return value


def _is_several(value: Any) -> bool:
    """Whether it can be gone through as a list: text, bytes, mappings and single numbers cannot."""
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or getattr(value, "shape", None) == ():
        return False
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")
