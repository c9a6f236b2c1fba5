"""Config of the stage evaluate."""

from pathlib import Path

from trine.config.base import ModelName, PositiveFloat, PositiveInt, StageConfig


class EvaluateConfig(StageConfig):
    """Compare a policy before and after PPO on held-out prompts."""

    before: ModelName
    """the model PPO started from"""
    after: ModelName
    """the policy PPO made"""
    base: ModelName
    """the pretrained model, for plain completions"""
    reward: ModelName
    """reward model the policy learned from"""
    held_out_reward: ModelName
    """second, independent reward model"""
    prompts: Path
    """JSONL of held-out examples"""
    max_new_tokens: PositiveInt = 64
    """token budget of a response"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    samples: PositiveInt = 1
    """responses per prompt"""
    shown: PositiveInt = 8
    """samples shown side by side"""
