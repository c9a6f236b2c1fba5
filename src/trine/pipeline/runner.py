"""Run a recipe: every stage in order, finished ones skipped, the report at the end.

The estimate printed first is that of the plan that was chosen (`plans.py`); of a recipe without plans, its own minutes,
where it states them, corrected by how fast this machine multiplies matrices compared with the one it was written on.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from trine.catalog.publishing import check_publishing, push_model
from trine.config.extras import check_extras
from trine.config.registry import STAGES
from trine.config.stages import LANGUAGE_MODEL
from trine.config.use import RunConfig
from trine.pipeline.plans import Choice, begun_with, choose_plan
from trine.pipeline.recipes import Recipe, recipe_of
from trine.runtime.allocator import release_memory
from trine.runtime.device import Hardware, choose_hardware
from trine.runtime.durations import spoken
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json
from trine.runtime.launch import one_process_only
from trine.runtime.lock import folder_lock
from trine.runtime.progress import say
from trine.runtime.signals import stop_request
from trine.runtime.speed import time_factor


def run(config: RunConfig) -> Path:
    """Run the recipe; returns the report's path."""
    one_process_only("a recipe")
    if config.push_to_hub is not None:
        check_publishing(config.push_to_hub)
    hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
    choice = choose_plan(config, hardware)
    recipe = recipe_of(config, choice.plan)
    pushed = _last_model(recipe) if config.push_to_hub is not None else None
    seconds = estimated_seconds(recipe, choice, hardware)
    say(f"{recipe.title} on {hardware.description}{f': about {spoken(seconds)}' if seconds else ''}")
    for line in choice.lines:
        say(line)
    with folder_lock(config.out):
        _run_stages(recipe, config)
        from trine.report.report import write_report

        path, text = write_report(config.out)
    print(text)
    if config.push_to_hub is not None and pushed is not None:
        push_model(pushed, config.push_to_hub)
    say(f"\nreport: {path}\nrun folders: {', '.join(step.name for step in recipe.steps)} in {config.out}")
    return path


def estimated_seconds(recipe: Recipe, choice: Choice, hardware: Hardware) -> float | None:
    """How long the recipe takes on this machine; None where nothing is known, or the plan was begun before."""
    if choice.plan is not None:
        return choice.seconds
    return 60 * recipe.minutes * time_factor(hardware) if recipe.minutes else None


def _last_model(recipe: Recipe) -> Path:
    """The run folder of the last stage that makes a language model."""
    makers = [name for name, stage in STAGES.items() if stage.makes == LANGUAGE_MODEL]
    made = [step.config.out for step in recipe.steps if step.stage in makers]
    if not made:
        raise TrineError(f"{recipe.title}: no stage of it makes a language model to push ({', '.join(makers)})")
    return made[-1]


def _run_stages(recipe: Recipe, config: RunConfig) -> None:
    """Run what is not finished; before it and after each stage, write recipe.json: the plan, and the stages so far."""
    for step in recipe.steps:
        if not (step.config.out / "done.json").exists():
            check_extras(step.config)
    seconds: dict[str, float] = {}
    if recipe.plan != begun_with(config.out):
        write_json(
            config.out / "recipe.json", _description(recipe, config, seconds)
        )  # whatever stops it, it has a plan
    changes = {"overwrite": True} if config.overwrite else {}
    for number, step in enumerate(recipe.steps, 1):
        stop_request.check()
        marker = step.config.out / "seconds.json"
        done_before = _written(step.config.out / "done.json")
        say(f"{number}/{len(recipe.steps)} {step.name}", style="bold")
        earlier, started = _seconds(marker), time.perf_counter()
        try:
            STAGES[step.stage].run_function()(step.config.model_copy(update=changes))
        finally:
            finished = done_before is not None and done_before == _written(step.config.out / "done.json")
            if step.config.out.is_dir() and not (finished and marker.exists()):
                before = earlier if marker.exists() else 0.0  # a stage that was started over has removed it
                write_json(marker, {"seconds": before + time.perf_counter() - started})
        release_memory()
        seconds[step.name] = _seconds(marker)
        write_json(config.out / "recipe.json", _description(recipe, config, seconds))
        say(f"   {'finished before' if finished else spoken(seconds[step.name])}")


def _written(file: Path) -> int | None:
    """When `file` was written: a run that is extended writes its results again."""
    return file.stat().st_mtime_ns if file.exists() else None


def _seconds(marker: Path) -> float:
    """What is in seconds.json; a damaged one costs a figure of the report, no run."""
    try:
        return float(read_json(marker)["seconds"]) if marker.exists() else 0.0
    except (TrineError, KeyError, TypeError, ValueError):
        return 0.0


def _description(recipe: Recipe, config: RunConfig, seconds: dict[str, float]) -> dict[str, object]:
    """recipe.json, which the report reads."""
    return {
        "title": recipe.title,
        "recipe": config.recipe,
        "seed": config.seed,
        "minutes": config.minutes,
        "plan": recipe.plan,
        "set": dict(config.set) if isinstance(config.set, Mapping) else list(config.set),
        "stages": [
            {"name": step.name, "stage": step.stage, "seconds": seconds[step.name]}
            for step in recipe.steps
            if step.name in seconds
        ],
    }
