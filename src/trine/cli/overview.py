"""`trine --help`, apart from the options of a command, so that it answers before pydantic is imported."""

import os
import sys
import textwrap
from collections.abc import Mapping

INDENT = 16
MIN_WIDTH = 32


def print_overview(stages: Mapping[str, str], commands: Mapping[str, str]) -> None:
    """`trine --help`."""
    width = terminal_width()
    title = textwrap.wrap("trine: train, align and serve a language model of your own", width)
    lines = [*title, "", "usage: trine COMMAND [options]", ""]
    for heading, table in (("to begin and to use", commands), ("the stages, each a command", stages)):
        lines += [f"{heading}:", *(_row(name, about, width) for name, about in table.items()), ""]
    lines += textwrap.wrap("trine COMMAND --help lists the options one needs first; --help all lists every one.", width)
    sys.stdout.write("\n".join(lines) + "\n")


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; `shutil` has the same, and would double this module's import."""
    given = os.environ.get("COLUMNS", "")
    try:
        columns = int(given) if given.isdecimal() else os.get_terminal_size().columns
    except (OSError, ValueError):  # no terminal
        columns = 80
    return max(columns or 80, MIN_WIDTH)


def _row(name: str, about: str, width: int) -> str:
    return textwrap.fill(f"  {name:<{INDENT - 2}}{about}", width, subsequent_indent=" " * INDENT)
