"""Stages and commands are two tables of one namespace."""

import pytest

from trine.config.registry import COMMANDS, STAGES, command_config_class, config_class, stage_of
from trine.config.stage import Stage, follow
from trine.config.text import PretrainConfig
from trine.config.use import ReportConfig
from trine.runtime.errors import TrineError


def test_a_stage_is_a_command_too() -> None:
    assert config_class("pretrain") is command_config_class("pretrain") is PretrainConfig


def test_no_command_has_the_name_of_a_stage() -> None:
    assert not set(STAGES) & set(COMMANDS)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_reference_of_a_description_leads_somewhere(stage: Stage) -> None:
    others = (stage.estimate, stage.overview, stage.headline, stage.verdicts, *stage.sections)
    assert all(callable(follow(reference)) for reference in (stage.run, *others) if reference)


def test_a_config_knows_its_stage() -> None:
    classes = [stage.config_class() for stage in STAGES.values()]
    assert len(set(classes)) == len(classes)
    assert stage_of(PretrainConfig(out="run", tokenizer="tokenizer")) is STAGES["pretrain"]  # type: ignore[arg-type]
    with pytest.raises(TrineError, match="no stage takes a ReportConfig"):
        stage_of(ReportConfig(out="run"))  # type: ignore[arg-type]
