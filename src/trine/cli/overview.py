"""`trine --help`, apart from the options of a command, so that it answers before pydantic is imported."""

import sys
from collections.abc import Mapping


def print_overview(stages: Mapping[str, str], commands: Mapping[str, str]) -> None:
    """`trine --help`."""
    lines = ["trine: train, align and serve a language model of your own", "", "usage: trine COMMAND [options]", ""]
    for title, table in (("to begin and to use", commands), ("the stages, each a command", stages)):
        lines += [f"{title}:", *(f"  {name:<14}{help_text}" for name, help_text in table.items()), ""]
    lines.append("trine COMMAND --help lists a command's options.")
    sys.stdout.write("\n".join(lines) + "\n")
