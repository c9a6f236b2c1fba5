"""run.json: what a run was made from and on, and whether a command with this config is the same run.

The identity of a run is the content of its inputs and the settings that change results: neither where the folder lies
nor how a path is spelled. `config/resumption.py` says of every setting what another value means. The precision that
counts is the one that the hardware really computed in. In the record, paths of what lies below the folder that the run
folder is in (a recipe's) are relative to the run folder, so that the whole can be moved.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trine import __version__
from trine.config.base import StageConfig
from trine.config.registry import stage_of
from trine.config.resumption import Resumption, Setting, settings_of, with_inputs
from trine.runtime.device import Hardware
from trine.runtime.distributed import ALONE, World
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json

NAME = "run.json"
FORMAT = 2
PRECISION = "hardware.precision"
# Where results go and whether they are uploaded: not worth a word when it changes.
NOT_OF_THE_RUN = ("out", "overwrite", "push_to_hub", "push_private")
# What `ran_on` says better, for the stages that compute; for the others it is the number of workers.
FACTS = ("hardware.device", "hardware.threads")


@dataclass(frozen=True)
class RunRecord:
    """The contents of run.json.

    `inputs`: fingerprints by the name of the setting. `ran_on`: device, precision, threads, processes and versions that
    really ran. `continued`: what was different each time the run was continued in another way.
    """

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    ran_on: dict[str, Any]
    made_with: dict[str, str]
    continued: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        write_json(folder / NAME, {"format": FORMAT, "trine": self.ran_on["trine"]} | asdict(self))

    def settings(self, cls: type[BaseModel]) -> dict[str, Setting]:
        """The settings by dotted key; the precision is the one that was computed in."""
        found = settings_of(cls, self.config)
        if PRECISION in found:
            found[PRECISION] = replace(found[PRECISION], value=self.ran_on.get("precision"), default=None)
        return found


@dataclass(frozen=True)
class Change:
    """A setting, an input or a fact of the machine that differs between a run's record and a command."""

    key: str
    kind: Resumption
    before: Any
    now: Any

    @property
    def extends(self) -> bool:
        return self.kind is Resumption.EXTENDS and _number(self.before) and _number(self.now) and self.now > self.before

    @property
    def refused(self) -> bool:
        """Whether this makes it another run."""
        other_run = self.kind in (Resumption.IDENTITY, Resumption.BY_CONTENT)
        return other_run or (self.kind is Resumption.EXTENDS and not self.extends)

    def __str__(self) -> str:
        if self.kind is Resumption.BY_CONTENT:
            return f"{self.key}: its content has changed"
        shorter = self.kind is Resumption.EXTENDS and _number(self.before) and _number(self.now)
        more = "; a run can be made longer, not shorter" if shorter and not self.extends else ""
        return f"{self.key}: {_shown(self.before)} → {_shown(self.now)}{more}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def record_of(
    config: StageConfig, inputs: dict[str, str], hardware: Hardware | None = None, world: World = ALONE
) -> RunRecord:
    """The record of a run of `config` that begins now; `hardware`: where it computes, if its stage does."""
    values = config.model_dump(mode="json")
    ran_on: dict[str, Any] = {"trine": __version__, "torch": _torch_version()}
    if hardware is not None:
        machine = {"device": hardware.device_name, "precision": hardware.precision, "threads": hardware.threads}
        ran_on |= machine | {"processes": world.size}
    portable = with_inputs(type(config), values, lambda place: _relative(place, config.out)) | {"out": "."}
    return RunRecord(stage_of(config).name, portable, inputs, ran_on, _made_with())


def read_record(folder: Path) -> RunRecord:
    """The record in `folder`; raises `TrineError` where it is damaged or of another format."""
    place = folder / NAME
    advice = "restore it, or give another --out; without it nobody knows what the run was made from"
    try:
        values = read_json(place)
    except TrineError as error:
        raise TrineError(f"{error}; {advice}") from error
    if isinstance(values, dict) and values.get("format") == FORMAT:
        try:
            return _checked(values)
        except (KeyError, TypeError) as error:
            raise TrineError(f"{place} is damaged: {error}; {advice}") from None
    if isinstance(values, dict) and {"config", "inputs", "trine"} <= values.keys() and "format" not in values:
        raise TrineError(
            f"{folder} holds a run of an earlier version of Trine ({_shown(values['trine'])}), whose record does not "
            "say enough to be compared: continue it with that version, or give another --out"
        )
    raise TrineError(f"{place} is not the record of a run; {advice}")


def _checked(values: dict[str, Any]) -> RunRecord:
    kinds = {"stage": str, "config": dict, "inputs": dict, "ran_on": dict, "made_with": dict, "continued": list}
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is not a {kind.__name__}")
    if "trine" not in values["ran_on"]:
        raise KeyError("ran_on.trine")
    return RunRecord(**{name: values[name] for name in kinds})


def changes(before: RunRecord, now: RunRecord, cls: type[BaseModel]) -> list[Change]:
    """What differs, apart from where things lie. `cls` is the config class of both."""
    by_content = before.inputs.keys() | now.inputs.keys()
    return [
        *_of_settings(before.settings(cls), now.settings(cls), by_content),
        *_of_inputs(before.inputs, now.inputs),
        *(
            Change(name, Resumption.CHANGES_BITS, before.ran_on[name], value)
            for name, value in now.ran_on.items()
            if name != "precision" and before.ran_on.get(name, value) != value
        ),
    ]


def _of_settings(before: dict[str, Setting], now: dict[str, Setting], by_content: Set[str]) -> Iterator[Change]:
    """A setting that only one of the two has counts as its default there: a later version may have added it."""
    for key in dict.fromkeys((*now, *before)):
        one, other = before.get(key), now.get(key)
        kind = (other or one or Setting(None, Resumption.IDENTITY)).kind
        if kind is Resumption.BY_CONTENT:
            if key.partition(".")[0] in by_content:
                continue
            kind = Resumption.IDENTITY
        values = (_value(one, other), _value(other, one))
        if values[0] != values[1] and key not in (*NOT_OF_THE_RUN, *FACTS):
            yield Change(key, kind, *values)


def _value(setting: Setting | None, other: Setting | None) -> Any:
    """The value of `setting`; where it is missing, the default of the other."""
    value = setting.value if setting is not None else other.default if other is not None else None
    return json.loads(json.dumps(value, default=str))


def _of_inputs(before: dict[str, str], now: dict[str, str]) -> Iterator[Change]:
    for name in sorted(before.keys() | now.keys()):
        one, other = before.get(name), now.get(name)
        if one is None or other is None:
            yield Change(name, Resumption.IDENTITY, one and "given", other and "given")
        elif one != other:
            yield Change(name, Resumption.BY_CONTENT, one, other)


@cache
def _made_with() -> dict[str, str]:
    """For people: no part of what a run is compared by."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    try:
        root = Path(__file__).parent
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return versions
    return versions | ({"commit": run.stdout.strip()} if run.returncode == 0 else {})


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _relative(place: str, run: Path) -> str:
    """`place` as seen from the folder `run`, absolute if it lies elsewhere, as it is if it is no path that exists."""
    if not Path(place).exists():
        return place
    for path, home in ((Path(place).absolute(), run.absolute()), (Path(place).resolve(), run.resolve())):
        if path.is_relative_to(home.parent):
            return Path(os.path.relpath(path, home)).as_posix()
    return str(Path(place).absolute())
