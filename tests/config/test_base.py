"""Every field of every config explains itself, and every stage and command is found."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from trine.config.base import Config, StageConfig
from trine.config.registry import COMMANDS, STAGES, command_config_class, config_class

NAMES = [*STAGES, *COMMANDS]


def fields(cls: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, field) of every leaf."""
    found: list[tuple[str, Any]] = []
    for name, field in cls.model_fields.items():
        inner = field.annotation
        is_config = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += fields(inner, f"{prefix}{name}.") if is_config else [(prefix + name, field)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_description(name: str) -> None:
    undescribed = [key for key, field in fields(command_config_class(name)) if not (field.description or "").strip()]
    assert undescribed == []


@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_a_docstring_of_its_own(name: str) -> None:
    assert command_config_class(name).__doc__ not in (None, Config.__doc__, StageConfig.__doc__)


def test_a_part_given_in_part_keeps_what_its_owner_sets_for_the_rest() -> None:
    """PPO is trained by AdamW: another learning rate does not bring back the optimizer's own default, Muon."""
    from trine.config.rl import PpoConfig

    required = {"out": "a", "model": "m", "prompts": "p", "reward": "r"}
    plain, changed = PpoConfig(**required), PpoConfig(**required, optimizer={"learning_rate": 1e-5})
    assert changed.optimizer == plain.optimizer.model_copy(update={"learning_rate": 1e-5})
    assert changed.optimizer.kind == "adamw"
    assert PpoConfig(**required, loop={"keep_checkpoints": 5}).loop.save_every == plain.loop.save_every == 40


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_module_with_run(stage: str) -> None:
    assert issubclass(config_class(stage), StageConfig)
    assert callable(STAGES[stage].run_function())


def test_every_command_can_be_performed() -> None:
    from trine.cli.commands import _COMMANDS

    assert set(_COMMANDS) == set(COMMANDS)


def test_configs_are_immutable() -> None:
    config = command_config_class("report")(out="somewhere")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="frozen"):
        config.out = "elsewhere"  # type: ignore[attr-defined]


def test_configs_import_nothing_heavy() -> None:
    modules = sorted(
        {stage.config.partition(":")[0] for stage in STAGES.values()}
        | {reference.partition(":")[0] for reference, _ in COMMANDS.values()}
    )
    script = (
        f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
