"""A Python function from a typed config: its fields are the arguments, their docs the help, their defaults shown.

As on the command line, fields that are required may be given first, in order, without their names; nested configs are
taken as mappings; and every mistake is a `TrineError` that names the nearest known key.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache
from textwrap import wrap
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from trine.config.base import Config
from trine.config.loading import validated
from trine.config.registry import command_config_class
from trine.config.stage import Reference, follow
from trine.runtime.errors import TrineError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def config_function(
    name: str, command: str, cls: type[AnyConfig], perform: Callable[[AnyConfig], Any]
) -> Callable[..., Any]:
    """The function `trine.<name>`, which makes a `cls` of its arguments and performs it, as `trine <command>` does."""

    def call(*args: Any, **fields: Any) -> Any:
        return perform(config_of(f"trine.{name}", cls, args, fields))

    call.__name__ = call.__qualname__ = name
    call.__module__ = "trine"
    call.__doc__ = _documentation(name, command, cls)
    call.__signature__ = _signature(cls)  # type: ignore[attr-defined]
    return call


@cache
def command_function(name: str, command: str, target: Reference) -> Callable[..., Any]:
    """`trine.<name>`: from the fields of `command`'s config to what `target` makes of it."""
    return config_function(name, command, command_config_class(command), follow(target))


def config_of(place: str, cls: type[AnyConfig], args: tuple[Any, ...], fields: dict[str, Any]) -> AnyConfig:
    """The config that a call's arguments ask for."""
    names = required_fields(cls)
    if len(args) > len(names):
        raise TrineError(
            f"{place}: {len(args)} values are given without a name; "
            f"only {', '.join(names) or 'no value'} may be, name the others"
        )
    positional = dict(zip(names, args, strict=False))
    twice = sorted(positional.keys() & fields.keys())
    if twice:
        raise TrineError(f"{place}: {twice[0]!r} is given twice, once without its name")
    return validated(cls, _plain(positional | fields), place)


def required_fields(cls: type[Config]) -> list[str]:
    return [name for name, field in cls.model_fields.items() if field.is_required()]


def _plain(value: Any) -> Any:
    """Paths of every kind (a `Result` is one) as text, in mappings and lists too."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _signature(cls: type[Config]) -> inspect.Signature:
    parameters = sorted(map(_parameter, cls.model_fields, cls.model_fields.values()), key=lambda each: each.kind)
    return inspect.Signature(parameters)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    required = field.is_required()
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD if required else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else field.get_default(call_default_factory=True),
        annotation=field.annotation,
    )


def _documentation(name: str, command: str, cls: type[Config]) -> str:
    """What `help` shows: what it does, a call, and every field."""
    call = ", ".join(f"{field}=..." for field in required_fields(cls))
    lines = [(cls.__doc__ or "").strip(), "", f"    trine.{name}({call})", ""]
    lines += [f"The same as `trine {command}`, with the same fields; those that are configs are given as dicts.", ""]
    for field_name, field in cls.model_fields.items():
        lines += wrap(f"{field_name}: {_about(field)}", 100, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines)


def _about(field: FieldInfo) -> str:
    """A field's doc and default; of a config, what it is about and its keys."""
    if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
        return f"{(field.annotation.__doc__ or '').strip()} Keys: {', '.join(field.annotation.model_fields)}."
    default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
    return f"{field.description or ''} ({default})"
