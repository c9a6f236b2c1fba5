"""A recipe: named stages in order, each with its config. Written in YAML; nothing in it is hidden from the user.

`@name` in a path or a model's name is the run folder of an earlier stage. Fields under `scale` are multiplied by
--minutes over the recipe's own minutes, so that the budget is counted in tokens and iterations, never by the clock. A
pretraining stage that states its `depth` can be taken to another one by --depth (`config/scale.py: moved`). What --set
says of a step (`pretrain.tokens=2e6`) goes on top of all of it, as it is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from trine.config.base import Config, HardwareConfig, StageConfig
from trine.config.fields import alternatives, config_fields, from_texts, is_name
from trine.config.loading import nearest, validated, with_override
from trine.config.registry import STAGES, config_class
from trine.config.scale import moved
from trine.config.use import RunConfig
from trine.config.values import kind_of, read_fields
from trine.pipeline.recipe_file import Entry, RecipeFile, read_recipe_file
from trine.runtime.errors import TrineError

Overrides = Sequence[str] | Mapping[str, Any]
"""step.key=value, as typed; or {step.key: value}"""


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
    overrides: Overrides = (),
) -> Recipe:
    """Read a recipe file, or a built-in one by name, for run folder `out`.

    Raises `TrineError` naming file, stage and key of the first mistake, before anything runs.
    """
    described, entries = read_recipe_file(name)
    scale = _scale(minutes, described, name)
    given = _by_step(overrides, entries)
    if depth is not None and not any(_own_depth(entry) for entry in entries):
        raise TrineError(
            f"{name}: --depth {depth} has nothing to set: no stage states a depth of its own to scale from; "
            "write `depth:` into the config of its pretraining stage"
        )
    steps: list[Step] = []
    for number, entry in enumerate(entries, 1):
        plan = _Plan(entry, f"{name}: stage {number}", out, [step.name for step in steps])
        step = plan.step(seed, scale, depth, given.get(plan.name, {}))
        if hardware is not None:
            step = replace(step, config=_with_hardware(step.config, hardware))
        steps.append(step)
    return Recipe(described.title or Path(name).stem, minutes or described.minutes, tuple(steps))


def recipe_of(config: RunConfig) -> Recipe:
    """The recipe that `trine run` is asked for."""
    return load_recipe(
        config.recipe, config.out, config.seed, config.minutes, config.hardware, config.depth, config.set
    )


def _scale(minutes: float | None, described: RecipeFile, place: str) -> float:
    """What the fields under `scale` are multiplied by."""
    if minutes is None:
        return 1.0
    if described.minutes is None:
        raise TrineError(f"{place} states no minutes to scale from; leave --minutes out, or use --depth")
    return minutes / described.minutes


def _own_depth(entry: Entry) -> bool:
    """Whether the stage states a depth that can be moved."""
    if entry.stage not in STAGES:
        return False
    depth = read_fields(config_class(entry.stage), entry.config).get("depth")
    return isinstance(depth, int) and depth > 0


def _with_hardware(config: StageConfig, given: HardwareConfig) -> StageConfig:
    """What was given for the whole run goes before what the recipe says; the rest of the recipe's word stands."""
    return config.model_copy(
        update={"hardware": config.hardware.model_copy(update=given.model_dump(exclude_unset=True))}
    )


class _Plan:
    """One stage of a recipe on its way to a `Step`."""

    def __init__(self, entry: Entry, place: str, out: Path, earlier: list[str]) -> None:
        self.entry, self.out, self.earlier = entry, out, earlier
        self.name = entry.name or entry.stage
        self.place = f"{place} ({self.name})"

    def step(self, seed: int, scale: float, depth: int | None, overrides: Mapping[str, Any]) -> Step:
        """The stage's config: the recipe's, scaled or taken to another depth, under what --set says."""
        stage = self.entry.stage
        if stage not in STAGES:
            raise TrineError(f"{self.place}: stage {stage!r} is unknown{nearest(stage, STAGES)}")
        if self.name in self.earlier:
            raise TrineError(f"{self.place}: the name {self.name!r} is taken; give each stage its own")
        cls = config_class(stage)
        values = dict(read_fields(cls, self.entry.config))
        if depth is not None and _own_depth(self.entry):
            values = moved(values, depth)
        self._scale(values, scale)
        self._override(cls, values, overrides)
        if "out" in values:
            raise TrineError(f"{self.place}: out is {self.out / self.name}, by the name of the step; leave it out")
        values = self._with_folders(cls, values)
        own = {"out": str(self.out / self.name), "seed": seed + self.entry.seed * 1_000_003}
        return Step(self.name, stage, validated(cls, own | values | {"out": own["out"]}, self.place))

    def _scale(self, values: dict[str, Any], scale: float) -> None:
        for field in self.entry.scale:
            if field not in values:
                known = nearest(field, values)
                raise TrineError(f"{self.place}: scale names {field!r}, which its config does not set{known}")
            value = values[field]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TrineError(f"{self.place}: scale names {field!r}, which is no number: {value!r}")
            values[field] = max(1, round(value * scale)) if isinstance(value, int) else value * scale

    def _override(self, cls: type[Config], values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
        fields = {each.name: each for each in config_fields(cls)}
        for key, value in overrides.items():
            field, place = fields.get(key) or fields.get(key.replace("-", "_")), f"--set {self.name}.{key}"
            if field is not None:
                read = from_texts(field, value.texts, place) if isinstance(value, _Typed) else value
                with_override(values, field.name, read)
                continue
            owner = next(
                (each for each in fields.values() if each.is_mapping and key.startswith(f"{each.name}.")), None
            )
            if owner is None:
                raise TrineError(f"{place}: unknown key {key!r}{nearest(key, fields)}")
            texts = [f"{key.removeprefix(f'{owner.name}.')}={text}" for text in getattr(value, "texts", [value])]
            for inner, read in from_texts(owner, texts, place).items():
                with_override(values, (*owner.name.split("."), inner), read)

    def _with_folders(self, kind: Any, value: Any) -> Any:
        """`value` with @name in paths and models' names replaced by that step's run folder; text stays text."""
        if isinstance(kind, type) and issubclass(kind, Config) and isinstance(value, Mapping):
            kinds = {name: kind_of(field) for name, field in kind.model_fields.items()}
            return {key: self._with_folders(kinds.get(key), each) for key, each in value.items()}
        for each in alternatives(kind):
            if isinstance(each, type) and issubclass(each, Config) and isinstance(value, Mapping):
                return self._with_folders(each, value)
            if get_origin(each) is tuple and isinstance(value, list):
                return [self._with_folders(get_args(each)[0], item) for item in value]
        text = str(value) if isinstance(value, str | Path) else ""
        return self._folder(text[1:]) if text.startswith("@") and _is_place(kind) else value

    def _folder(self, reference: str) -> str:
        name, _, rest = reference.partition("/")
        if name not in self.earlier:
            raise TrineError(f"{self.place}: @{name} is no earlier stage{nearest(name, self.earlier)}")
        return str(self.out / name / rest)


def _is_place(kind: Any) -> bool:
    return is_name(kind) or Path in alternatives(kind)


@dataclass(frozen=True)
class _Typed:
    """What --set was given for one key, to be read as an option is."""

    texts: list[str]


def _by_step(overrides: Overrides, entries: list[Entry]) -> dict[str, dict[str, Any]]:
    """{step: {key: value, or the typed texts}}. Raises `TrineError` where no step is called so."""
    names = sorted((entry.name or entry.stage for entry in entries), key=len, reverse=True)
    found: dict[str, dict[str, Any]] = {}
    for written in overrides:
        place, equals, text = (written, "=", "") if isinstance(overrides, Mapping) else written.partition("=")
        step = next((name for name in names if place.startswith(f"{name}.")), None)
        if not equals or "." not in place:
            raise TrineError(f"--set {written}: write step.key=value, such as {names[-1]}.seed=1")
        if step is None:
            known = nearest(place.split(".")[0], names)
            raise TrineError(f"--set {written}: the recipe has no step {place.split('.')[0]!r}{known}")
        keys, key = found.setdefault(step, {}), place.removeprefix(f"{step}.")
        if isinstance(overrides, Mapping):
            keys[key] = overrides[written]
        else:
            keys.setdefault(key, _Typed([])).texts.append(text)
    return found
