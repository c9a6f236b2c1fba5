"""What a command would do and what it would cost, without doing it: the whole config, and the stage's own estimate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trine.config.base import StageConfig
from trine.config.registry import STAGES, stage_of
from trine.config.stage import follow
from trine.config.use import QuickstartConfig, RunConfig


def describe(command: str, config: Any) -> str:
    """A text for the terminal."""
    if isinstance(config, QuickstartConfig):
        config = RunConfig(recipe="quickstart", **config.model_dump())
    if isinstance(config, RunConfig):
        return _describe_recipe(config)
    return "\n".join([_resolved(config), *(_estimate(config, {}) if command in STAGES else [])])


def _describe_recipe(config: RunConfig) -> str:
    from trine.pipeline.recipes import load_recipe
    from trine.runtime.device import choose_hardware
    from trine.runtime.speed import time_factor

    recipe = load_recipe(config.recipe, config.out, config.seed, config.minutes, config.hardware, config.depth)
    lines, earlier = [f"# {recipe.title}"], dict[Path, StageConfig]()
    for step in recipe.steps:
        lines += [f"## {step.name} (stage {step.stage})", _resolved(step.config), *_estimate(step.config, earlier)]
        earlier[step.config.out] = step.config
    if recipe.minutes is not None:
        hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
        minutes = recipe.minutes * time_factor(hardware)
        lines.append(f"# all together: about {minutes:.0f} minutes on {hardware.description}")
    return "\n".join(lines)


def _resolved(config: Any) -> str:
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)).rstrip()


def _estimate(config: StageConfig, earlier: Mapping[Path, StageConfig]) -> list[str]:
    """What the stage says of its size, as comments; `earlier` are the configs of a recipe's steps before it."""
    reference = stage_of(config).estimate
    return [f"# {line}" for line in follow(reference)(config, earlier)] if reference else []
