"""Which of a recipe's plans to follow: the one the folder was begun with, the one asked for, or the largest that fits.

A plan is fixed by its name, so that the same plan and seed give the same models everywhere; only which one is taken
depends on the machine, whose speed is measured for some seconds. A folder keeps its plan: the same command resumes it,
however busy the machine is by then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trine.config.text import PretrainConfig, TokenizerConfig
from trine.config.use import RunConfig
from trine.pipeline.recipe_file import RecipeFile, read_recipe_file
from trine.pipeline.recipes import Recipe, recipe_of
from trine.pipeline.speeds import Speeds, measured_speeds
from trine.pipeline.work import seconds_of
from trine.runtime.device import Hardware
from trine.runtime.durations import spoken
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.stages.pretraining.pretrain import model_config

# A plan that takes this much longer than asked still takes about as long.
ABOUT = 1.15


@dataclass(frozen=True)
class Choice:
    """The plan to follow (None: the recipe has none), what to say of it, and its estimate where one was made."""

    plan: str | None = None
    lines: tuple[str, ...] = ()
    seconds: float | None = None


def choose_plan(config: RunConfig, hardware: Hardware) -> Choice:
    """The plan that `trine run` follows. Raises `TrineError` where what is asked for cannot be had in that folder."""
    described, _ = read_recipe_file(config.recipe)
    if not described.plans:
        recipe_of(config, config.plan)  # refuses a plan
        return Choice()
    begun = begun_with(config.out)
    if begun is not None and config.plan in (None, begun):
        return Choice(begun, (f"plan {begun}, as {config.out} was begun; another starts from nothing, elsewhere",))
    if begun is not None and not config.overwrite:
        raise TrineError(
            f"{config.out} was begun with plan {begun}, and plan {config.plan} starts from nothing: give it a folder "
            "of its own with --out (or --overwrite, which deletes what is there)"
        )
    if config.plan not in (None, *described.plans):
        recipe_of(config, config.plan)  # refuses it, before anything is measured
    seconds = _estimates({name: recipe_of(config, name) for name in described.plans}, hardware, config.recipe)
    plan = config.plan or _fitting(seconds, config.minutes, described, config.recipe)
    return Choice(plan, _lines(plan, seconds, described), seconds[plan])


def begun_with(out: Path) -> str | None:
    """The plan that the folder's recipe.json names."""
    file = out / "recipe.json"
    plan = read_json(file).get("plan") if file.exists() else None
    return plan if isinstance(plan, str) else None


def _estimates(recipes: Mapping[str, Recipe], hardware: Hardware, place: str) -> dict[str, float]:
    """Seconds that each plan takes on this machine, as fast as it is now; each shape of model is measured once."""
    measured: dict[str, Speeds] = {}
    seconds = {}
    for name, recipe in recipes.items():
        configs = [step.config for step in recipe.steps]
        pretraining = next((config for config in configs if isinstance(config, PretrainConfig)), None)
        words = next((config.vocab_size for config in configs if isinstance(config, TokenizerConfig)), None)
        if pretraining is None or words is None:
            raise TrineError(f"{place} makes no tokenizer and model whose speed could be measured: choose by --plan")
        shape = model_config(pretraining.model, words)
        if str(shape) not in measured:
            measured[str(shape)] = measured_speeds(shape, pretraining, hardware)
        seconds[name] = seconds_of(configs, measured[str(shape)])
    return seconds


def _fitting(seconds: Mapping[str, float], minutes: float | None, described: RecipeFile, place: str) -> str:
    """The largest plan that takes about `minutes`; the smallest where nobody asked for a number that is too small."""
    budget = 60 * (minutes or described.minutes or 10.0)
    fitting = [name for name in seconds if seconds[name] <= ABOUT * budget]
    smallest = min(seconds, key=seconds.__getitem__)
    if not fitting and minutes is not None:
        raise TrineError(
            f"--minutes {minutes:g}: no plan of {place} is that quick on this machine; the smallest, {smallest}, takes "
            f"about {spoken(seconds[smallest])}: --plan {smallest}"
        )
    return max(fitting, key=seconds.__getitem__) if fitting else smallest


def _lines(plan: str, seconds: Mapping[str, float], described: RecipeFile) -> tuple[str, ...]:
    """Each plan with its estimate, then what follows from the choice."""
    width = max(map(len, seconds))
    table = []
    for name, each in seconds.items():
        mark, machine = "→" if name == plan else " ", described.plans[name].machine
        table.append(f"{mark} plan {name:<{width}}  about {spoken(each)}, meant for {machine}")
    larger = [name for name, each in seconds.items() if each > seconds[plan]]
    if not larger:
        return tuple(table)
    return (*table, f"a larger one starts from nothing, in a folder of its own: --plan {larger[0]} --out FOLDER")
