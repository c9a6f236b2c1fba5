"""Config of the stage evaluate."""

from pathlib import Path

from trine.config.base import ModelName, PositiveFloat, PositiveInt, StageConfig
from trine.config.resumption import ByContent
from trine.records import Closing


class EvaluateConfig(StageConfig):
    """Compare a policy before and after PPO on held-out prompts."""

    first = ("max_new_tokens", "samples")

    before: ByContent[ModelName]
    """the policy before PPO"""
    after: ByContent[ModelName]
    """the policy after PPO"""
    base: ByContent[ModelName]
    """the pretrained model, which completes the prompts as plain text"""
    reward: ByContent[ModelName]
    """reward model that the policy was trained against"""
    held_out_reward: ByContent[ModelName]
    """held-out reward model: one that the policy was not trained against"""
    prompts: ByContent[Path]
    """JSONL of held-out examples"""
    max_new_tokens: PositiveInt = 64
    """token budget of a response"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    samples: PositiveInt = 1
    """responses per prompt"""
    closed: Closing | None = None
    """how both reward models read a response that was cut at max_new_tokens; null: as each one's folder says"""
    shown: PositiveInt = 8
    """number of prompts whose responses the report shows side by side"""
