"""A recipe: named stages in order, each with its config. Written in YAML; nothing in it is hidden from the user.

`@name` in a path or a model's name is the run folder of an earlier stage, or what --set gave the recipe under that
name (`recipe_inputs.py`). A recipe may have plans, each with counts of
its own on top of the stages' configs (`plans.py` chooses one); in a recipe without, fields under `scale` are multiplied
by --minutes over the recipe's own minutes. Either way a budget is counted in tokens and iterations, never by the clock.
A pretraining stage that states its `depth` can be taken to another one by --depth (`config/scale.py: moved`). What
--set says of a step (`pretrain.tokens=2e6`) goes on top of all of it, as it is written.
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
from trine.pipeline.recipe_inputs import with_inputs
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
    """Steps in order, what the report is headed, and, if stated, about how long it takes on the reference machine.

    `plan`: the name of the plan it follows, of a recipe that has plans.
    """

    title: str
    minutes: float | None
    steps: tuple[Step, ...]
    plan: str | None = None


def load_recipe(
    name: str,
    out: Path,
    seed: int,
    minutes: float | None,
    hardware: HardwareConfig | None = None,
    depth: int | None = None,
    overrides: Overrides = (),
    plan: str | None = None,
) -> Recipe:
    """Read a recipe file, or a built-in one by name, for run folder `out`; of one with plans, the plan called `plan`.

    Raises `TrineError` naming file, stage and key of the first mistake, before anything runs.
    """
    described, entries = read_recipe_file(name)
    entries, overrides = with_inputs(described.inputs, entries, overrides, name)
    planned = _by_step(_plan(plan, described, name), entries, f"{name}: plan {plan}")
    scale = 1.0 if described.plans else _scale(minutes, described, name)
    given = _by_step(overrides, entries)
    if depth is not None and not any(_own_depth(entry) for entry in entries):
        raise TrineError(
            f"{name}: --depth {depth} has nothing to set: no stage states a depth of its own to scale from; "
            "write `depth:` into the config of its pretraining stage"
        )
    steps: list[Step] = []
    for number, entry in enumerate(entries, 1):
        draft = _Draft(entry, f"{name}: stage {number}", out, [step.name for step in steps])
        step = draft.step(seed, scale, depth, (planned.get(draft.name, {}), given.get(draft.name, {})))
        if hardware is not None:
            step = replace(step, config=_with_hardware(step.config, hardware))
        steps.append(step)
    own_minutes = described.minutes if described.plans else minutes or described.minutes
    return Recipe(described.title or Path(name).stem, own_minutes, tuple(steps), plan)


def recipe_of(config: RunConfig, plan: str | None = None) -> Recipe:
    """The recipe that `trine run` is asked for, by the plan called `plan` where it has plans."""
    return load_recipe(
        config.recipe, config.out, config.seed, config.minutes, config.hardware, config.depth, config.set, plan
    )


def _plan(plan: str | None, described: RecipeFile, place: str) -> Mapping[str, Any]:
    """What the plan called `plan` sets; nothing where none is asked for."""
    if plan is None:
        return {}
    if not described.plans:
        raise TrineError(f"{place} has no plans; leave --plan out")
    if plan not in described.plans:
        raise TrineError(
            f"{place}: plan {plan!r} is none of {', '.join(described.plans)}{nearest(plan, described.plans)}"
        )
    return described.plans[plan].set


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


class _Draft:
    """One stage of a recipe on its way to a `Step`."""

    def __init__(self, entry: Entry, place: str, out: Path, earlier: list[str]) -> None:
        self.entry, self.out, self.earlier = entry, out, earlier
        self.name = entry.name or entry.stage
        self.place = f"{place} ({self.name})"

    def step(self, seed: int, scale: float, depth: int | None, overrides: Sequence["Mapping[str, _Override]"]) -> Step:
        """The stage's config: the recipe's, scaled or taken to another depth, under what the plan and --set say."""
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
        for each in overrides:
            self._override(cls, values, each)
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

    def _override(self, cls: type[Config], values: dict[str, Any], overrides: "Mapping[str, _Override]") -> None:
        fields = {each.name: each for each in config_fields(cls)}
        for key, override in overrides.items():
            field, place = fields.get(key) or fields.get(key.replace("-", "_")), override.place
            if field is not None:
                read = override.value if override.texts is None else from_texts(field, override.texts, place)
                with_override(values, field.name, read)
                continue
            owner = next(
                (each for each in fields.values() if each.is_mapping and key.startswith(f"{each.name}.")), None
            )
            if owner is None:
                raise TrineError(f"{place}: unknown key {key!r}{nearest(key, fields)}")
            given = [override.value] if override.texts is None else override.texts
            texts = [f"{key.removeprefix(f'{owner.name}.')}={text}" for text in given]
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


@dataclass
class _Override:
    """What a plan or --set says of one key: a value; or, as it was typed, texts to be read as an option is."""

    place: str
    value: Any = None
    texts: list[str] | None = None


def _by_step(overrides: Overrides, entries: list[Entry], place: str = "--set") -> dict[str, dict[str, _Override]]:
    """{step: {key: override}}. Raises `TrineError` beginning with `place` where no step is called so."""
    names = sorted((entry.name or entry.stage for entry in entries), key=len, reverse=True)
    found: dict[str, dict[str, _Override]] = {}
    for written in overrides:
        key, equals, text = (written, "=", "") if isinstance(overrides, Mapping) else written.partition("=")
        step = next((name for name in names if key.startswith(f"{name}.")), None)
        if not equals or "." not in key:
            raise TrineError(f"{place} {written}: write step.key=value, such as {names[-1]}.seed=1")
        if step is None:
            known = nearest(key.split(".")[0], names)
            raise TrineError(f"{place} {written}: the recipe has no step {key.split('.')[0]!r}{known}")
        keys, inner = found.setdefault(step, {}), key.removeprefix(f"{step}.")
        override = keys.setdefault(inner, _Override(f"{place} {key}"))
        if isinstance(overrides, Mapping):
            override.value = overrides[written]
        else:
            override.texts = [*(override.texts or []), text]
    return found
