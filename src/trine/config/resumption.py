"""What another value of a setting means to a run that is there already. Each field of a config says it by its type:

    seed: NonNegativeInt                       (unmarked: identity) another value is another run
    examples: ByContent[Path]                  what lies there is compared, not how the path is spelled
    tokens: Extends[PositiveInt]               a larger value continues the run, finished or not
    micro_batch_size: ChangesBits[PositiveInt] may change; from then on results differ, as by rounding
    save_every: MayChange[PositiveInt]         may change; the weights stay the same, bit for bit

`training/run_record.py` compares a run with its record by these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Resumption(Enum):
    """The kinds; a value is what `--help` can say of an option."""

    IDENTITY = "fixed for a run"
    BY_CONTENT = "compared by content"
    EXTENDS = "larger extends a run"
    CHANGES_BITS = "may change on resuming, then not bit for bit"
    MAY_CHANGE = "may change on resuming"


Value = TypeVar("Value")
ByContent = Annotated[Value, Resumption.BY_CONTENT]
Extends = Annotated[Value, Resumption.EXTENDS]
ChangesBits = Annotated[Value, Resumption.CHANGES_BITS]
MayChange = Annotated[Value, Resumption.MAY_CHANGE]


@dataclass(frozen=True)
class Setting:
    """One value of a config, under its dotted key; `default` is its class's."""

    value: Any
    kind: Resumption
    default: Any = None


def resumption(field: FieldInfo) -> Resumption:
    """The kind of a field."""
    return next((each for each in field.metadata if isinstance(each, Resumption)), Resumption.IDENTITY)


def resumptions(cls: type[BaseModel], prefix: str = "") -> dict[str, Resumption]:
    """The kind of every field of a config class, by its dotted key; an element of a list of configs is `key.*`."""
    kinds: dict[str, Resumption] = {}
    for name, field in cls.model_fields.items():
        inner = config_in(field)
        if inner is None:
            kinds[f"{prefix}{name}"] = resumption(field)
        else:
            kinds |= resumptions(inner, f"{prefix}{name}." if inner is field.annotation else f"{prefix}{name}.*.")
    return kinds


def settings_of(
    cls: type[BaseModel], values: dict[str, Any], prefix: str = "", owner: BaseModel | None = None
) -> dict[str, Setting]:
    """Every value in `values`, a dumped config of `cls`, by its dotted key; of what is no field of `cls`, identity.

    `owner`: an instance whose values are the defaults, in place of the class's.
    """
    found: dict[str, Setting] = {}
    for name, value in values.items():
        key, field = f"{prefix}{name}", cls.model_fields.get(name)
        if field is None:
            found[key] = Setting(value, Resumption.IDENTITY)
            continue
        default = getattr(owner, name) if owner is not None else _default(field)
        inner = config_in(field)
        if inner is None:
            found[key] = Setting(value, resumption(field), default)
            continue
        for place, part in _parts(value, key):
            found |= settings_of(inner, part, f"{place}.", default if isinstance(default, inner) else None)
    return found


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _parts(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings in the value of a field that holds a config or a list of them."""
    if isinstance(value, dict):
        yield place, value
    elif isinstance(value, list):
        yield from ((f"{place}.{index}", part) for index, part in enumerate(value) if isinstance(part, dict))


def with_inputs(cls: type[BaseModel], values: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """`values`, a dumped config of `cls`, with every text of a setting that is compared by content changed."""
    changed: dict[str, Any] = {}
    for key, value in values.items():
        field = cls.model_fields.get(key)
        inner = config_in(field) if field is not None else None
        if inner is not None:
            changed[key] = _each(value, dict, partial(with_inputs, inner, change=change))
        elif field is not None and resumption(field) is Resumption.BY_CONTENT:
            changed[key] = _each(value, str, change)
        else:
            changed[key] = value
    return changed


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """`change` of a value of this kind, or of those in a list or in a mapping of names to them."""
    if isinstance(value, list | tuple):
        return [_each(item, kind, change) for item in value]
    if isinstance(value, dict) and kind is not dict:
        return {key: _each(item, kind, change) for key, item in value.items()}
    return change(value) if isinstance(value, kind) else value


def config_in(field: FieldInfo) -> type[BaseModel] | None:
    """The config class of a field that holds a config, or a list of them."""
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
