"""What a command would do and what it would cost, without doing it: inputs checked, the whole config, an estimate."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trine.cli.input_checks import check_inputs
from trine.config.base import StageConfig
from trine.config.registry import STAGES, stage_of
from trine.config.stage import Estimate, follow
from trine.config.use import QuickstartConfig, RunConfig
from trine.config.yaml_text import written
from trine.pipeline.recipes import Recipe, recipe_of
from trine.runtime.durations import spoken
from trine.runtime.errors import TrineError

if TYPE_CHECKING:
    from trine.pipeline.plans import Choice
    from trine.runtime.device import Hardware


def describe(command: str, config: Any) -> str:
    """A text for the terminal. Raises `TrineError` naming every input that is missing or cannot be used."""
    if isinstance(config, QuickstartConfig):
        config = RunConfig(recipe="quickstart", **config.model_dump())
    if isinstance(config, RunConfig):
        return _describe_recipe(config)
    notes = check_inputs(config, {}, f"trine {command}")
    estimate = _estimate(config, {}) if command in STAGES else Estimate(())
    return "\n".join([_resolved(config), *_comments((*notes, *estimate.lines))])


def _describe_recipe(config: RunConfig) -> str:
    from trine.pipeline.plans import choose_plan
    from trine.runtime.device import choose_hardware

    hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
    choice = choose_plan(config, hardware)
    recipe = recipe_of(config, choice.plan)
    lines, earlier, mistakes = [f"# {recipe.title}"], dict[Path, StageConfig](), list[str]()
    seconds = 0.0
    for step in recipe.steps:
        before = dict(earlier)
        earlier[step.config.out] = step.config
        try:
            notes = check_inputs(step.config, before, step.name)
        except TrineError as error:
            mistakes.append(str(error))
            continue
        estimate = _estimate(step.config, before)
        seconds += estimate.seconds or 0.0
        lines += [f"## {step.name} (stage {step.stage})", _resolved(step.config)]
        lines += _comments((*notes, *estimate.lines))
    if mistakes:
        raise TrineError("\n".join(mistakes))
    return "\n".join([*lines, *_comments(choice.lines), *_comments(_together(recipe, choice, hardware, seconds))])


def _together(recipe: Recipe, choice: "Choice", hardware: "Hardware", seconds: float) -> tuple[str, ...]:
    """How long all steps take: never less than the steps whose own time is known."""
    from trine.pipeline.runner import estimated_seconds

    total = estimated_seconds(recipe, choice, hardware)
    if total is None:
        return (f"all together: more than {spoken(seconds)}, the time of the steps that say theirs",) if seconds else ()
    return (f"all together: about {spoken(max(total, seconds))} on {hardware.description}",)


def _resolved(config: Any) -> str:
    return written(config.model_dump(mode="json")).rstrip()


def _estimate(config: StageConfig, earlier: Mapping[Path, StageConfig]) -> Estimate:
    """What the stage says of its size; `earlier` are the configs of a recipe's steps before it."""
    reference = stage_of(config).estimate
    return follow(reference)(config, earlier) if reference else Estimate(())


def _comments(lines: tuple[str, ...]) -> list[str]:
    return [f"# {line}" for line in lines]
