"""Config of the stage reasoning."""

from typing import Any

from pydantic import Field

from trine.config.base import NonNegativeInt, PositiveInt, StageConfig, Word


class ReasoningConfig(StageConfig):
    """Write prompts of tasks of reasoning-gym, which `--reward reasoning-gym` then scores (extra `reasoning`)."""

    first = ("count", "held_out_count", "options")

    tasks: tuple[Word, ...]
    """names of the tasks, such as leg_counting or basic_arithmetic; each makes its share of the prompts"""
    count: PositiveInt = 1000
    """prompts to train on"""
    held_out_count: NonNegativeInt = 100
    """prompts held out; none of them is among those to train on"""
    options: dict[str, Any] = Field(default={})
    """settings of the tasks, as reasoning-gym has them, such as max_terms=3; every task named has to have them"""
    instruction: str = "Put your answer between <answer> and </answer>."
    """what is asked for after each question; the reward reads what stands between these, or else all of the response"""
