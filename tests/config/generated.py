"""Values of any field, made by its type, and how they are written: as an option, in YAML, in Python.

for value in values_of(kind, random): ...
"""

import json
import random
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from trine.config.base import Config
from trine.config.fields import alternatives, bare, is_name, is_text
from trine.config.rewards import RewardSum
from trine.config.values import WORD

# Texts and names that YAML, shells and option parsers are known to take for something else.
TEXTS = (
    "null", "~x", "true", "no", "on", "1e5", "0x10", "010", "1_000", "1:30", "2001-01-01", "User:", "\\n", "def ", " ",
    "a,b", "[INST]", "{a: 1}", "- x", "# no", "key: value", "'", '"', '"quoted"', "--help", "-1", "-", "=", "a=b",
    "\n", "tab\there", "é中文🙂", "@name", "*alias", "&anchor", "!tag", "%", "$HOME", "<<", ".inf",
    "", "!!int 3", "|", ">",
)  # fmt: skip
PATHS = (
    "a b",
    "a,b",
    "null",
    "1e5",
    "true",
    "-x",
    "[x]",
    '"q"',
    "x=y",
    "é/中文",
    "a/../b",
    "010",
    "{x}",
    "no",
    "a: b",
    "#",
)
WORDS = ("MIT", "Apache-2.0", "1e5", "null-1", "no", "010")
KEYS = ("numpy", "markdown-it-py", "1", "null", "no", "a b", "x.y")


def value_of(kind: Any, random_: random.Random) -> Any:
    """One value that a field of this type takes."""
    others = alternatives(kind)
    inner = others[random_.randrange(len(others))]
    if NoneType in _all_args(kind) and random_.random() < 0.1:
        return None
    if get_origin(inner) is Literal:
        return random_.choice(get_args(inner))
    if get_origin(inner) is tuple:
        return tuple(value_of(get_args(inner)[0], random_) for _ in range(random_.randrange(1, 4)))
    if get_origin(inner) is dict:
        return {key: value_of(get_args(inner)[1], random_) for key in random_.sample(KEYS, random_.randrange(1, 4))}
    return _single(kind, inner, random_)


def _single(kind: Any, inner: Any, random_: random.Random) -> Any:
    if inner in (int, float):
        return _number(kind, inner, random_)
    if inner is RewardSum:
        names = random_.sample(("a b", "null", "length:max=3", "regex:a: b", "package.module:function"), 2)
        return RewardSum.model_validate({"parts": [{"name": names[0], "weight": random_.choice((-1, 0.5))}, names[1]]})
    if isinstance(inner, type) and issubclass(inner, Config):
        return inner(folder=random_.choice(PATHS), text_field=random_.choice(TEXTS))  # a SourceConfig
    if is_name(kind):
        return random_.choice((*PATHS[:2], *PATHS[3:], "owner/name", "package.module:function"))
    words = WORDS if WORD in _all_args(kind) else TEXTS
    choices: dict[Any, tuple[Any, ...]] = {bool: (True, False), Path: tuple(map(Path, PATHS)), str: words}
    return random_.choice(choices.get(inner, (3, 1.5, "text", "1e5", "null", True, [1, "a"])))


def _number(kind: Any, inner: type, random_: random.Random) -> float:
    marks = [mark for each in _all_args(kind) for mark in getattr(each, "metadata", [each])]
    low = next((mark.ge if isinstance(mark, Ge) else mark.gt for mark in marks if isinstance(mark, Ge | Gt)), 0)
    high = next((mark.le if isinstance(mark, Le) else mark.lt for mark in marks if isinstance(mark, Le | Lt)), 10**9)
    value = low + (high - low) * random_.choice((0.5, 0.001, 0.999, 1 / 3, 1e-6))
    return max(int(value), int(low) + 1) if inner is int else float(value)


def _all_args(kind: Any) -> list[Any]:
    return [kind, *(found for each in get_args(kind) if each is not Ellipsis for found in _all_args(each))]


def typed(kind: Any, value: Any) -> list[str]:
    """The texts to type for an option, with each number spelled in one of its ways."""
    inner = bare(kind)
    if isinstance(value, tuple):
        item = next(get_args(each)[0] for each in alternatives(kind) if get_origin(each) is tuple)
        return [_quoted(item, text) for each in value for text in typed(item, each)]
    if isinstance(value, dict):
        return [json.dumps(value)]
    if isinstance(value, Config):
        return [json.dumps(value.model_dump(mode="json"))]
    if value == Path("null") and NoneType in _all_args(kind):
        return ["./null"]
    return [spelled(value) if inner in (int, float) else str(value).lower() if inner is bool else str(value)]


def _quoted(item: Any, text: str) -> str:
    """An item as a list of this kind takes it: with quotes where a comma, quote or bracket stands in it."""
    is_config = isinstance(bare(item), type) and issubclass(bare(item), Config)
    plain = is_text(item) or is_config
    return text if plain else '"' + text.replace('"', '""') + '"'


def spelled(value: float) -> str:
    """A number in one of the ways that people write it."""
    ways = [str(value)]
    if isinstance(value, int):
        ways += [f"{value:_}", f"{value}.0", *([f"{value // 1000}k"] if value % 1000 == 0 else [])]
    return random.Random(value).choice(ways)
