"""A command line from a typed config: every field an option, its doc the help, its default shown.

`--config FILE` reads YAML first; options override it. Values are YAML (`--corpus.distributions '{numpy: 1.0}'`).
A dash in a name is an underscore: `--push-to-hub` is `--push_to_hub`.
"""

import argparse
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trine.config.base import Config
from trine.config.loading import nearest, read_yaml, validated, with_override
from trine.runtime.errors import TrineError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse(command: str, cls: type[AnyConfig], arguments: list[str]) -> tuple[AnyConfig, bool]:
    """The config that `arguments` ask for, and whether --dry-run was given. Prints help and leaves on --help."""
    fields = dict(_leaves(cls))
    parser = _parser(command, cls, fields)
    known, left = parser.parse_known_args(_with_positional(cls, [_underscored(each, fields) for each in arguments]))
    if left:
        name = left[0].removeprefix("--").split("=")[0].replace("-", "_")
        raise TrineError(f"trine {command}: unknown option {left[0]}{nearest(name, fields)}")
    values = read_yaml(Path(known.config)) if known.config else {}
    for name, field in fields.items():
        given = getattr(known, name)
        if given is not None:
            with_override(values, name, _value(name, given, field))
    place = known.config or f"trine {command}"
    return validated(cls, values, place), known.dry_run


def _parser(command: str, cls: type[Config], fields: dict[str, FieldInfo]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"trine {command}",
        description=cls.__doc__,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the options below")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and its size, and stop")
    for name, field in fields.items():
        default = "required" if field.is_required() else f"default: {_shown(field)}"
        text = f"{field.description or ''} ({default})".replace("%", "%%")
        parser.add_argument(f"--{name}", dest=name, metavar="VALUE", help=text)
    return parser


def _leaves(cls: type[BaseModel], prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """(dotted name, field) of every field that is not itself a config."""
    leaves: list[tuple[str, FieldInfo]] = []
    for name, field in cls.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            for inner_name, inner_field in _leaves(inner, f"{prefix}{name}."):
                leaves.append((inner_name, _with_default(inner_field, default, inner_name.rsplit(".", 1)[-1])))
        else:
            leaves.append((f"{prefix}{name}", field))
    return leaves


def _with_default(field: FieldInfo, owner: Any, name: str) -> FieldInfo:
    """The field with the default its owner gives it, which may differ from the class's."""
    if isinstance(owner, BaseModel) and hasattr(owner, name):
        return FieldInfo(annotation=field.annotation, description=field.description, default=getattr(owner, name))
    return field


def _shown(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "null" if value is None else "none" if value in ((), {}) else str(value)


def _value(name: str, text: str, field: FieldInfo) -> Any:
    """An option's text as YAML; text fields are taken as they stand, but for null."""
    kinds = {kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)}
    if kinds <= {str, Path}:
        return None if text == "null" and not field.is_required() else text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrineError(f"--{name} {text!r} is not a YAML value: {error}") from None
    return [value] if get_origin(field.annotation) is tuple and isinstance(value, str) else value


def _underscored(argument: str, fields: dict[str, FieldInfo]) -> str:
    """An option's name as the config spells it; anything else as it is."""
    name, equals, value = argument.removeprefix("--").partition("=")
    spelled = name.replace("-", "_")
    return f"--{spelled}{equals}{value}" if argument.startswith("--") and spelled in fields else argument


def _with_positional(cls: type[Config], arguments: list[str]) -> list[str]:
    """The required fields may be given first, in order, without their names: `trine run quickstart`."""
    required = iter([name for name, field in cls.model_fields.items() if field.is_required()])
    named: list[str] = []
    for place, argument in enumerate(arguments):
        name = None if argument.startswith("-") else next(required, None)
        if name is None:
            return [*named, *arguments[place:]]
        named += [f"--{name}", argument]
    return named
