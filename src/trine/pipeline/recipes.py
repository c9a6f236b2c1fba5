"""A recipe: named stages in order, each with its config. Written in YAML; nothing in it is hidden from the user.

`@name` in a value is the run folder of an earlier stage. Fields under `scale` are multiplied by --minutes over the
recipe's own minutes, so that the budget is counted in tokens and iterations, never by the clock. A pretraining stage
that states its `depth` can be taken to another one by --depth (`config/scale.py: moved`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from trine.config.base import HardwareConfig, StageConfig
from trine.config.loading import nearest, validated
from trine.config.registry import STAGES, config_class
from trine.config.scale import moved
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, its config complete and checked."""

    name: str
    stage: str
    config: StageConfig


@dataclass(frozen=True)
class Recipe:
    """Steps in order, what the report is headed, and, if stated, about how long it takes on the reference machine."""

    title: str
    minutes: float | None
    steps: tuple[Step, ...]


def load_recipe(
    name: str,
    out: Path,
    seed: int,
    minutes: float | None,
    hardware: HardwareConfig | None = None,
    depth: int | None = None,
) -> Recipe:
    """Read a recipe file, or a built-in one by name, for run folder `out`.

    Raises `TrineError` naming file, stage and key of the first mistake, before anything runs.
    """
    path, described = _read(name)
    _refuse_unknown(described, {"title", "minutes", "shared", "stages"}, str(path))
    planned = _number(described["minutes"], f"{path}: minutes") if "minutes" in described else None
    scale = _scale(minutes, planned, str(path))
    steps: list[Step] = []
    stages = described.get("stages") or ()
    if not isinstance(stages, list | tuple):
        raise TrineError(f"{path}: 'stages' is a list of stages, each with a key 'stage'")
    if depth is not None:
        stages = _at_depth(stages, depth, str(path))
    for number, entry in enumerate(stages, 1):
        step = _step(entry, f"{path}: stage {number}", [step.name for step in steps], out, seed, scale)
        if hardware is not None:
            step = replace(step, config=_with_hardware(step.config, hardware))
        steps.append(step)
    if not steps:
        raise TrineError(f"{path}: the recipe has no stages")
    return Recipe(str(described.get("title", path.stem)), minutes or planned, tuple(steps))


def _scale(minutes: float | None, planned: float | None, place: str) -> float:
    """What the fields under `scale` are multiplied by."""
    if minutes is None:
        return 1.0
    if planned is None:
        raise TrineError(f"{place} states no minutes to scale from; leave --minutes out, or use --depth")
    return minutes / planned


def built_in_recipes() -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in files("trine.pipeline").joinpath("recipes").iterdir())


def recipe_text(name: str) -> str:
    """The YAML of a built-in recipe."""
    return files("trine.pipeline").joinpath("recipes", f"{name}.yaml").read_text("utf-8")


def _read(name: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name)
    if name in built_in_recipes():
        text = recipe_text(name)
    elif path.is_file():
        text = _text(path)
    else:
        raise TrineError(f"recipe {name!r} is neither a file nor built in ({', '.join(built_in_recipes())})")
    try:
        described = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrineError(f"{path}: not readable YAML: {error}") from None
    if not isinstance(described, dict):
        raise TrineError(f"{path}: a recipe is a mapping with the keys title, minutes, stages")
    return path, described


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrineError(f"{path}: not readable as UTF-8 text: {error}") from None


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TrineError(f"{place}: expected a number, found {value!r}")
    return float(value)


def _at_depth(stages: Any, depth: int, place: str) -> list[Any]:
    """The stages, those that state a depth taken to another."""
    if not any(_states_depth(entry) for entry in stages):
        raise TrineError(
            f"{place}: --depth {depth} has nothing to set: no stage states a depth of its own to scale from; "
            "write `depth:` into the config of its pretraining stage"
        )
    return [entry | {"config": moved(entry["config"], depth)} if _states_depth(entry) else entry for entry in stages]


def _states_depth(entry: Any) -> bool:
    config = entry.get("config") if isinstance(entry, dict) else None
    return isinstance(config, dict) and isinstance(config.get("depth"), int) and config["depth"] > 0


def _with_hardware(config: StageConfig, given: HardwareConfig) -> StageConfig:
    """What was given for the whole run goes before what the recipe says; the rest of the recipe's word stands."""
    return config.model_copy(
        update={"hardware": config.hardware.model_copy(update=given.model_dump(exclude_unset=True))}
    )


def _step(entry: Any, place: str, earlier: list[str], out: Path, seed: int, scale: float) -> Step:
    if not isinstance(entry, dict) or "stage" not in entry:
        raise TrineError(f"{place}: needs a key 'stage', one of {', '.join(STAGES)}")
    _refuse_unknown(entry, {"name", "stage", "seed", "scale", "config"}, place)
    stage, name = str(entry["stage"]), str(entry.get("name", entry["stage"]))
    place = f"{place} ({name})"
    if stage not in STAGES:
        raise TrineError(f"{place}: stage {stage!r} is unknown{nearest(stage, STAGES)}")
    if name in earlier:
        raise TrineError(f"{place}: the name {name!r} is taken; give each stage its own")
    values = _resolved(entry.get("config") or {}, _folder_of(earlier, out, place))
    if not isinstance(values, dict):
        raise TrineError(f"{place}: 'config' is a mapping of config keys")
    for field in entry.get("scale") or ():
        if field not in values:
            raise TrineError(f"{place}: scale names {field!r}, which its config does not set{nearest(field, values)}")
        _number(values[field], f"{place}: {field}")
        values[field] = _scaled(values[field], scale)
    offset = int(_number(entry.get("seed", 0), f"{place}: seed"))
    values |= {"out": str(out / name), "seed": values.get("seed", seed + offset * 1_000_003)}
    return Step(name, stage, validated(config_class(stage), values, place))


def _scaled(value: float, scale: float) -> float:
    return max(1, round(value * scale)) if isinstance(value, int) else value * scale


def _folder_of(earlier: list[str], out: Path, place: str) -> Callable[[str], str]:
    def folder(reference: str) -> str:
        name, _, rest = reference.partition("/")
        if name not in earlier:
            raise TrineError(f"{place}: @{name} is no earlier stage{nearest(name, earlier)}")
        return str(out / name / rest)

    return folder


def _resolved(value: Any, folder: Callable[[str], str]) -> Any:
    if isinstance(value, str) and value.startswith("@"):
        return folder(value[1:])
    if isinstance(value, dict):
        return {key: _resolved(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, folder) for item in value]
    return value


def _refuse_unknown(described: dict[str, Any], known: set[str], place: str) -> None:
    for key in described:
        if key not in known:
            raise TrineError(f"{place}: unknown key {key!r}{nearest(str(key), known)}")
