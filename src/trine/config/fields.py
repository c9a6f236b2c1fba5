"""The fields of a config by their dotted names, and how the text of an option is read for each.

An option's text is what was typed. Lists take several values; in lists of numbers, choices, names and paths commas
separate too, unless a path of that very name exists, or the item has double quotes around it; in lists of text they
never do. A mapping is written key=value, or as YAML: {key: value}.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from trine.config.base import Config, ModelName
from trine.config.values import BYTES, WORD, Plain, bare, kind_of
from trine.config.yaml_text import read_mapping, read_value
from trine.runtime.errors import TrineError

_ITEM = re.compile(r'\s*("(?:[^"]|"")*"|[^,]*)\s*(?:,|$)')
_NAMES = get_args(ModelName)[1]


@dataclass(frozen=True)
class ConfigField:
    """A field that is not itself a config: its dotted name, the class it is of, its type and what is known of it."""

    name: str
    owner: type[BaseModel]
    kind: Any
    description: str
    required: bool
    default: Any = None

    @property
    def is_list(self) -> bool:
        return any(get_origin(each) is tuple for each in alternatives(self.kind))

    @property
    def is_mapping(self) -> bool:
        return get_origin(bare(self.kind)) is dict

    @property
    def is_switch(self) -> bool:
        return bare(self.kind) is bool

    @property
    def nullable(self) -> bool:
        return type(None) in get_args(_outer(self.kind))


def config_fields(cls: type[BaseModel], prefix: str = "", defaults: BaseModel | None = None) -> list[ConfigField]:
    """Every field of `cls` that is not itself a config, of nested configs too; `defaults` replace the class's."""
    found: list[ConfigField] = []
    for name, field in cls.model_fields.items():
        default = getattr(defaults, name, None) if defaults else field.get_default(call_default_factory=True)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            owner = default if isinstance(default, BaseModel) else None
            found += config_fields(inner, f"{prefix}{name}.", owner)
        else:
            required = field.is_required() and defaults is None
            value = None if default is PydanticUndefined else default
            description = field.description or ""
            found.append(ConfigField(prefix + name, cls, kind_of(field), description, required, value))
    return found


def alternatives(kind: Any) -> Sequence[Any]:
    """The types of a union, without None; a type that is none is the only one."""
    inner = bare(kind)
    return tuple(map(bare, get_args(inner))) if _is_union(inner) else (inner,)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) not in (None, tuple, list, dict, Literal, Annotated)


def _outer(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def item_kind(kind: Any) -> Any:
    """The type of a list's items, as it is written."""
    return next(get_args(each)[0] for each in alternatives(kind) if get_origin(each) is tuple)


def is_name(kind: Any) -> bool:
    """Whether it is the name of a model, which may be a path."""
    if get_origin(kind) is Annotated:
        return _NAMES in get_args(kind) or is_name(_outer(kind))
    return (_is_union(kind) or get_origin(kind) is tuple) and any(map(is_name, get_args(kind)))


def is_text(kind: Any) -> bool:
    """Whether what was typed stays what it is: not a path, a name, a number or a choice."""
    return bare(kind) is str and not is_name(kind) and WORD not in get_args(kind)


def from_texts(field: ConfigField, texts: Sequence[str], place: str) -> Any:
    """What the texts given for an option say. Raises `TrineError` naming `place` where that cannot be told."""
    if field.is_list:
        return [item for text in texts for item in _items(item_kind(field.kind), text, place)]
    if field.is_mapping:
        return _mapping(field, texts, place)
    if len(texts) > 1:
        raise TrineError(f"{place} is given {len(texts)} times, as {', '.join(map(repr, texts))}; give it once")
    return Plain(texts[0]) if field.nullable and not is_text(field.kind) else texts[0]


def nothing(field: ConfigField, place: str) -> Any:
    """What `--no-NAME` gives: false, null, or a list or mapping without items."""
    if field.is_switch:
        return False
    if field.is_list or field.is_mapping:
        return [] if field.is_list else {}
    if field.nullable:
        return None
    raise TrineError(f"{place}: {field.name} always has a value; --no-NAME is for what can be off, null or empty")


def _items(kind: Any, text: str, place: str) -> Iterable[Any]:
    inner = bare(kind)
    if isinstance(inner, type) and issubclass(inner, Config):
        value = read_value(text, f"{place} {text!r}")
        return value if isinstance(value, list) else [value]
    if is_text(kind):
        return [text]
    if inner is Path and ("," in text or text.startswith(("[", '"'))) and Path(text).expanduser().exists():
        return [text]
    if text.startswith("[") and text.endswith("]"):
        value = read_value(text, f"{place} {text!r}")
        return value if isinstance(value, list) else [value]
    return _separated(text, place)


def _separated(text: str, place: str) -> list[str]:
    """The items between commas; double quotes keep a comma inside an item, and are doubled to stand for themselves."""
    items: list[str] = []
    position = 0
    while True:
        found = _ITEM.match(text, position)
        item = found[1].rstrip() if found else ""
        if found is None or not item:
            raise TrineError(f"{place} {text!r}: an item is empty; write A,B, and quotes around an item with a comma")
        items.append(item[1:-1].replace('""', '"') if item.startswith('"') and len(item) > 1 else item)
        position = found.end()
        if position == len(text) and not found[0].endswith(","):
            return items


def _mapping(field: ConfigField, texts: Sequence[str], place: str) -> dict[str, Any]:
    """{key: value} of texts such as a=1, of several between commas, and of YAML mappings."""
    values: dict[str, Any] = {}
    kind = get_args(bare(field.kind))[1]
    for text in texts:
        for key, value in _pairs(text, kind, place):
            if key in values:
                raise TrineError(f"{place}: {key!r} is given twice")
            values[key] = value
    return values


def _pairs(text: str, kind: Any, place: str) -> Iterable[tuple[str, Any]]:
    if text.lstrip().startswith("{"):
        return read_mapping(text, f"{place} {text!r}").items()
    parts = [text] if is_text(kind) or bare(kind) is Any else text.split(",")
    pairs = [part.partition("=") for part in parts]
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise TrineError(f"{place} {text!r}: write key=value, several with blanks between, or YAML: '{{key: value}}'")
    return [(key.strip(), Plain(value) if bare(kind) is Any else value) for key, _, value in pairs]


def placeholder(kind: Any) -> str:  # noqa: PLR0911
    """What help shows in place of a value."""
    inner = bare(kind)
    if get_origin(inner) is tuple:
        return f"{placeholder(get_args(inner)[0])} ..."
    if get_origin(inner) is dict:
        return f"KEY={placeholder(get_args(inner)[1])} ..."
    if get_origin(inner) is Literal:
        return "{" + ",".join(map(str, get_args(inner))) + "}"
    if _is_union(inner):
        return placeholder(get_args(inner)[0])
    if is_name(kind):
        return "MODEL"
    if BYTES in get_args(kind):
        return "BYTES"
    if isinstance(inner, type) and issubclass(inner, Config):
        return "MAPPING"
    return _PLACEHOLDERS.get(inner, "VALUE")


_PLACEHOLDERS: Mapping[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "BOOL", Any: "VALUE"}
