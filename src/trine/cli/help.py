"""`trine COMMAND --help`: what one needs first; `--help all`: every option, by what it belongs to.

Each option shows its type or choices, what it is for and its default, within the width of the terminal (COLUMNS).
"""

import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from trine.cli.overview import terminal_width
from trine.config.base import Config
from trine.config.fields import ConfigField, config_fields, placeholder
from trine.config.resumption import Resumption
from trine.runtime.errors import TrineError

OF_EVERY_COMMAND = (
    ConfigField("config", Config, Path, "YAML file with any of the options", required=False),
    ConfigField(
        "dry_run", Config, bool, "check all inputs, print what would be done and its size, and stop", False, False
    ),
)

INDENT = 26


def print_help(command: str, cls: type[Config], asked: str) -> None:
    """The help of a command on standard output; `asked` is what stands behind --help: nothing, or all."""
    if asked not in ("", "all"):
        raise TrineError(f"trine {command}: --help {asked} is unknown; --help all shows every option")
    sys.stdout.write(help_text(command, cls, everything=asked == "all", width=terminal_width()))


def help_text(command: str, cls: type[Config], *, everything: bool, width: int) -> str:
    fields = config_fields(cls)
    names = [each.name for each in fields if each.required]
    optional = [f"[{name.upper()}]" for name in cls.unnamed]
    usage = " ".join([f"usage: trine {command}", *(name.upper() for name in names), *optional, "[options]"])
    lines = [*_wrapped(usage, width, 6), "", *_about(cls, width)]
    shown, first = 0, _first(cls)
    for title, group in _groups(cls, fields):
        chosen = [each for each in group if everything or each.required or each.name in first]
        shown += len(chosen)
        if chosen:
            lines += ["", *_wrapped(f"{title}:", width)]
            lines += [line for each in chosen for line in _option(each, width)]
    lines += ["", "of every command:", *(line for each in OF_EVERY_COMMAND for line in _option(each, width))]
    if shown < len(fields):
        rest = len(fields) - shown
        lines += ["", *_wrapped(f"{rest} more options: trine {command} --help all", width)]
    return "\n".join(lines) + "\n"


def _about(cls: type[Config], width: int) -> list[str]:
    """What the class says of itself, paragraph by paragraph."""
    paragraphs = [" ".join(each.split()) for each in (cls.__doc__ or "").split("\n\n")]
    lines = [line for each in paragraphs if each for line in ("", *_wrapped(each, width))]
    return lines[1:]


def _first(cls: type[Config]) -> Iterable[str]:
    """What the class says one needs first; where it says nothing, what is its own."""
    return cls.first or [name for name in cls.model_fields if name in cls.__annotations__]


def _groups(cls: type[Config], fields: Iterable[ConfigField]) -> Iterator[tuple[str, list[ConfigField]]]:
    """(title, options): the required ones, the command's own, and those of every nested config."""
    fields = list(fields)
    if any(each.required for each in fields):
        yield "required", [each for each in fields if each.required]
    groups: dict[str, list[ConfigField]] = {}
    for each in fields:
        if not each.required:
            groups.setdefault(each.name.rpartition(".")[0], []).append(each)
    for name, group in groups.items():
        about = (group[0].owner.__doc__ or "").strip().splitlines()[0].rstrip(".") if name else "options"
        yield f"{name}: {about}" if name else about, group


def _option(each: ConfigField, width: int) -> list[str]:
    """One option: its name and type, then what it is for, beside it where there is room."""
    on = each.is_switch and each.default is True  # what is on without being asked for is only ever turned off
    value = "{true,false}" if on else "" if each.is_switch else placeholder(each.kind)
    header = f"  --{each.name} {value}".rstrip()
    lines = list(_wrapped(header, width, 6, separators=",")) if len(header) > width else [header]
    about = f"{each.description} ({'; '.join((_default(each), *_on_resuming(each)))})"
    indent = INDENT if width >= 3 * INDENT else 6
    body = list(_wrapped(about, width, indent, first=indent))
    if len(lines) == 1 and len(header) <= indent - 2:
        return [header.ljust(indent) + body[0].lstrip(), *body[1:]]
    return [*lines, *body]


def _on_resuming(each: ConfigField) -> Iterator[str]:
    """What another value means to a run that is there already, where it is not another run."""
    kinds = (mark for mark in get_args(each.kind) if isinstance(mark, Resumption))
    silent = (Resumption.IDENTITY, Resumption.BY_CONTENT)
    return (kind.value for kind in kinds if kind not in silent and not each.required)


def _default(each: ConfigField) -> str:
    if each.required:
        return "required"
    value = each.default
    if value is None:
        return "default: null"
    if isinstance(value, bool):
        return f"default: {str(value).lower()}"
    if isinstance(value, tuple | list):
        return f"default: {', '.join(map(repr, value)) if value else 'none'}"
    if isinstance(value, int) and value >= 10_000:
        return f"default: {value:_}"
    return "default: none" if value in ({}, "") else f"default: {value}"


def _wrapped(text: str, width: int, indent: int = 0, *, first: int = 0, separators: str = "") -> list[str]:
    """Lines of at most `width`; words that are longer are broken, at `separators` where there are some."""
    text = text.strip() if first or not separators else text
    for each in separators:
        text = text.replace(each, f"{each} ")
    wrapper = textwrap.TextWrapper(
        width=width, initial_indent=" " * first, subsequent_indent=" " * indent, break_on_hyphens=False
    )
    return wrapper.wrap(text) or [""]
