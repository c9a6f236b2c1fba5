"""Completion of `trine` in bash, zsh and fish: the scripts ask `trine --complete WORDS`, so that they are never stale.

The last word is the one being typed. Nothing is offered where files belong: the shell completes those by itself.
"""

import sys
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from trine.config.fields import ConfigField, alternatives
from trine.config.registry import COMMANDS, STAGES, command_config_class

SCRIPTS = {
    "bash": """\
_trine() {
    local IFS=$'\\n'
    COMPREPLY=($(trine --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _trine trine
""",
    "zsh": """\
#compdef trine
_trine() {
    local -a found
    found=("${(@f)$(trine --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then compadd -a found; else _files; fi
}
compdef _trine trine
""",
    "fish": """\
complete -c trine -a '(trine --complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}


def print_candidates(words: Sequence[str]) -> None:
    """What the last of `words` may become, one a line."""
    sys.stdout.writelines(f"{each}\n" for each in candidates(list(words) or [""]))


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of `words` may become: a command, an option, a choice, a recipe."""
    *before, typed = words
    return sorted({each for each in _possible(before) if each.startswith(typed)})


def _possible(before: Sequence[str]) -> list[str]:
    commands = [*STAGES, *COMMANDS]
    prefix = " ".join(before[:2])
    if not before or before == ["help"]:
        return [name.split()[0] for name in [*commands, "help"]]
    command = prefix if prefix in commands else before[0]
    if command not in commands:
        return []
    inner = [name.split()[1] for name in commands if name.startswith(f"{command} ") and len(before) == 1]
    return inner + _of_command(command, before[len(command.split()) :])


def _of_command(command: str, before: Sequence[str]) -> list[str]:
    from trine.cli.help import OF_EVERY_COMMAND
    from trine.config.fields import config_fields

    fields = [*config_fields(command_config_class(command)), *OF_EVERY_COMMAND]
    option = before[-1].removeprefix("--").replace("-", "_") if before and before[-1].startswith("--") else ""
    asked = next((each for each in fields if each.name == option), None)
    if option == "help":
        return ["all"]
    if asked is None and not before:
        asked = next((each for each in fields if each.required), None)
    choices = _choices(asked) if asked is not None else []
    needs_value = asked is not None and bool(option) and not asked.is_switch
    return choices if needs_value else [*choices, *(f"--{each.name}" for each in fields), "--help"]


def _choices(field: ConfigField) -> list[str]:
    if field.name == "recipe":
        from trine.pipeline.recipe_file import built_in_recipes

        return built_in_recipes()
    inner = [each for kind in alternatives(field.kind) for each in (kind, *get_args(kind))]
    return [str(each) for kind in inner if get_origin(kind) is Literal for each in get_args(kind)]
