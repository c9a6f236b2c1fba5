"""A recipe as it is written: YAML with a title, minutes and stages, and which recipes come with Trine."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from trine.config.base import Config, PositiveFloat
from trine.config.loading import validated
from trine.config.registry import STAGES
from trine.config.values import AS_WRITTEN
from trine.config.yaml_text import read_file, read_mapping
from trine.runtime.errors import TrineError

Written = Annotated[Any, AS_WRITTEN]


class PlanFile(Config):
    """One of a recipe's plans: how much of everything it does, fixed by its name, for a machine of a certain speed."""

    machine: str
    """on which machine it takes about the recipe's minutes"""
    set: dict[str, Written] = Field(default={})
    """step.key: value, on top of the configs below"""


class RecipeFile(Config):
    """The top of a recipe."""

    title: str | None = None
    """what the report is headed"""
    minutes: PositiveFloat | None = None
    """about how long it takes on the reference machine; with plans, on the machine that each is for"""
    plans: dict[str, PlanFile] = Field(default={})
    """plans by name, the smallest first; --plan and --minutes choose one"""
    inputs: dict[str, str | None] = Field(default={})
    """what --set NAME=VALUE gives the recipe, by name, with its default (null: it has to be given); `@NAME` below
    stands for it. A default `trine:FILE` is a file that comes with Trine"""
    shared: Written = None
    """anything that is named by anchors below"""
    stages: tuple[Written, ...] = ()
    """the stages in order"""


class Entry(Config):
    """One stage of a recipe."""

    stage: str
    """which stage"""
    name: str | None = None
    """name of the step and of its run folder; null: that of the stage"""
    seed: int = 0
    """which seed, of those that follow from the recipe's"""
    scale: tuple[str, ...] = ()
    """config keys that grow and shrink with --minutes"""
    config: dict[str, Written] = Field(default={})
    """the stage's config"""


def built_in_recipes() -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in files("trine.pipeline").joinpath("recipes").iterdir())


def recipe_text(name: str) -> str:
    """The YAML of a recipe, built in or a file."""
    if name in built_in_recipes():
        return files("trine.pipeline").joinpath("recipes", f"{name}.yaml").read_text("utf-8")
    if not Path(name).expanduser().is_file():
        from trine.config.loading import nearest

        raise TrineError(f"recipe {name!r} is neither a file nor built in{nearest(name, built_in_recipes())}")
    return read_file(Path(name).expanduser())


def read_recipe_file(name: str) -> tuple[RecipeFile, list[Entry]]:
    """The recipe called `name` and its stages. Raises `TrineError` naming file, stage and key of the first mistake."""
    recipe = validated(RecipeFile, read_mapping(recipe_text(name), name), name)
    if not recipe.stages:
        raise TrineError(f"{name}: the recipe has no stages")
    return recipe, [_entry(each, f"{name}: stage {number}") for number, each in enumerate(recipe.stages, 1)]


def _entry(written: Any, place: str) -> Entry:
    if not isinstance(written, Mapping) or "stage" not in written:
        raise TrineError(f"{place}: needs a key 'stage', one of {', '.join(STAGES)}")
    values = {key: value for key, value in written.items() if value or key != "config"}  # `config:` alone is empty
    entry = validated(Entry, values, place)
    name = entry.name or entry.stage
    if "/" in name or "\\" in name or name in (".", ".."):
        raise TrineError(f"{place}: the name {name!r} is also that of its run folder; leave out slashes")
    return entry
