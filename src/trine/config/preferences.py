"""Configs of the stages that learn from preferences: preferences makes pairs, reward learns from them."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from trine.config.base import (
    LoopConfig,
    ModelName,
    NonNegativeInt,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
)
from trine.config.lora import LoraConfig


class PreferencesConfig(StageConfig):
    """Make preferences without a labeller: the answer a person wrote against answers the model samples."""

    model: ModelName
    """what samples: run or model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    examples: Path
    """JSONL of {prompt, response} to compare on"""
    held_out: Path | None = None
    """JSONL of examples whose preferences only evaluate"""
    samples: PositiveInt = 1
    """answers sampled per training prompt"""
    held_out_samples: PositiveInt = 2
    """answers sampled per held-out prompt: more pairs make a steadier accuracy"""
    max_prompts: NonNegativeInt = 0
    """how many training prompts to use, chosen by seed; 0 takes all"""
    mismatched_share: Share = 0.0
    """for this share of the training prompts, one more pair: the person's answer against what a person wrote for
    another prompt, so that an answer is also judged by whether it answers the question"""
    max_new_tokens: PositiveInt = 64
    """token budget of an answer; a sample that exceeds it makes no pair"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    rows: PositiveInt = 256
    """answers generated at a time"""


class RewardConfig(StageConfig):
    """Train a reward model on preferences (pairwise ranking loss)."""

    model: ModelName
    """run or model folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    preferences: Path
    """folder of a compare stage, or a JSONL of {prompt, chosen, rejected}"""
    held_out: Path | None = None
    """JSONL of preferences to evaluate on; a compare folder brings its own"""
    epochs: PositiveFloat = 1.0
    """passes over the preferences; may be a fraction"""
    batch_size: PositiveInt = 16
    """pairs per optimizer step"""
    micro_batch_size: PositiveInt = 16
    """pairs that go through the model at once"""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """how much higher the chosen score has to be before the loss is content"""
    normalize: bool = True
    """scale the scores to mean 0 and variance 1 over (some 512 of) the rejected, sampled answers"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.004, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()
