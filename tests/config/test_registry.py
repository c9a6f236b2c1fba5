"""Stages and commands are two tables of one namespace."""

from trine.config.registry import COMMANDS, STAGES, command_config_class, config_class
from trine.config.text import PretrainConfig


def test_a_stage_is_a_command_too() -> None:
    assert config_class("pretrain") is command_config_class("pretrain") is PretrainConfig


def test_no_command_has_the_name_of_a_stage() -> None:
    assert not set(STAGES) & set(COMMANDS)
