"""A command line from a typed config: every field an option.

`--config FILE` reads YAML first; options go on top. How a text is read is its field's matter (`config/fields.py`): here
are the manners of options alone.

    --name VALUE, --name=VALUE     a dash in a name is an underscore; a name is written out, never shortened
    --name A B, --name A --name B  lists; anything else that is given twice is an error
    --switch, --switch false       --no-name: off; null; or, of a list, none
    VALUE                          required options, and those of `Config.unnamed`, may be given without their names, in
                                   order; after -- all are
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trine.cli.help import OF_EVERY_COMMAND, print_help
from trine.config.base import Config
from trine.config.fields import ConfigField, config_fields, from_texts, nothing
from trine.config.loading import nearest, read_config_file, validated, with_override
from trine.config.values import read
from trine.runtime.errors import TrineError

AnyConfig = TypeVar("AnyConfig", bound=Config)
TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")


def parse(command: str, cls: type[AnyConfig], arguments: list[str]) -> tuple[AnyConfig, bool]:
    """The config that `arguments` ask for, and whether --dry-run was given. Prints help and leaves on --help."""
    fields = {each.name: each for each in (*OF_EVERY_COMMAND, *config_fields(cls))}
    scan = _Scan(f"trine {command}", fields, cls.unnamed)
    scan.read(arguments)
    if scan.help is not None:
        print_help(command, cls, scan.help)
        raise SystemExit(0)
    given = scan.overrides()
    config, dry_run = read(Path, given.pop("config", None)), given.pop("dry_run", "false")
    values = read_config_file(config, cls) if config is not None else {}
    for name, value in given.items():
        with_override(values, name, value)
    place = f"trine {command}" if config is None else _where(str(config), f"trine {command}", given)
    return validated(cls, values, place), str(dry_run).lower() in TRUTHS[::2]


def _where(file: str, command: str, given: Mapping[str, Any]) -> Callable[[str], str]:
    """Which of the two a key's value comes from."""

    def place(key: str) -> str:
        return command if any(f"{key}.".startswith(f"{name}.") for name in given) else file

    return place


@dataclass
class _Scan:
    """What was typed: the texts of each option, the options with --no- before them, and values without a name."""

    place: str
    fields: Mapping[str, ConfigField]
    optional: Sequence[str] = ()
    texts: dict[str, list[str]] = field(default_factory=dict)
    negated: set[str] = field(default_factory=set)
    unnamed: list[str] = field(default_factory=list)
    help: str | None = None

    def read(self, arguments: Sequence[str]) -> None:
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            if argument == "--":
                self.unnamed += rest
                return
            if argument == "-h" or argument.startswith("--"):
                self._option(argument, rest)
            elif argument.startswith("-") and argument[1:2].isalpha():
                raise TrineError(f"{self.place}: unknown option {argument}; options begin with two dashes")
            else:
                self.unnamed.append(argument)

    def overrides(self) -> dict[str, Any]:
        """{dotted name: value} of all that was typed."""
        required = [name for name, each in self.fields.items() if each.required and name not in self.texts]
        required += [name for name in self.optional if name not in self.texts]
        if len(self.unnamed) > len(required):
            raise TrineError(
                f"{self.place}: {self.unnamed[len(required)]!r} is one value too many; without its name may stand: "
                f"{', '.join(required) or 'none'}; a value with blanks needs quotes around it"
            )
        texts = self.texts | {name: [text] for name, text in zip(required, self.unnamed, strict=False)}
        both = sorted(self.negated & texts.keys())
        if both:
            raise TrineError(f"{self.place}: --{both[0]} and --no-{both[0]} contradict each other; give one of them")
        given = {name: from_texts(self.fields[name], typed, f"{self.place} --{name}") for name, typed in texts.items()}
        return given | {name: nothing(self.fields[name], f"{self.place} --no-{name}") for name in self.negated}

    def _option(self, argument: str, rest: list[str]) -> None:
        name, equals, value = argument.removeprefix("--").partition("=")
        if name in ("-h", "help") and "help" not in self.fields:
            self.help = value or (rest.pop(0) if rest[:1] == ["all"] else "")
            return
        spelled = name.replace("-", "_")
        found, key = self._field(name)
        if found is not None:
            texts = [value] if equals else self._values(found, argument, rest)
            self.texts.setdefault(found.name, []).extend(f"{key}={text}" if key else text for text in texts)
        elif spelled.startswith("no_") and spelled[3:] in self.fields and not equals:
            self.negated.add(spelled[3:])
        else:
            raise TrineError(f"{self.place}: unknown option {argument}{nearest(spelled, self.fields)}")

    def _field(self, name: str) -> tuple[ConfigField | None, str]:
        """The field of that name; or the mapping it is a key of, and the key: --corpus.distributions.numpy 0.5."""
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            owner = self.fields.get(".".join(parts[:count]).replace("-", "_"))
            if owner is not None and count == len(parts):
                return owner, ""
            if owner is not None and owner.is_mapping:
                return owner, ".".join(parts[count:])
        return None, ""

    def _values(self, found: ConfigField, argument: str, rest: list[str]) -> list[str]:
        """The values that follow an option, taken from `rest`."""
        if found.is_switch:
            return [rest.pop(0)] if rest and rest[0].lower() in TRUTHS else ["true"]
        if not rest or rest[0].startswith("--"):
            raise TrineError(
                f"{self.place}: {argument} needs a value; one that begins with dashes is written {argument}=VALUE"
            )
        taken = [rest.pop(0)]
        while (found.is_list or found.is_mapping) and rest and rest[0] != "-h" and not rest[0].startswith("--"):
            taken.append(rest.pop(0))
        return taken
