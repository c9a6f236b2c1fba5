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
from trine.config.resumption import ByContent, ChangesBits, Extends
from trine.records import Closing


class PreferencesConfig(StageConfig):
    """Make preference pairs without a labeller: chosen is the answer a person wrote, rejected one the model samples."""

    first = ("held_out", "samples", "max_prompts", "max_new_tokens")

    model: ByContent[ModelName]
    """model to sample from: run, model or adapter folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    examples: ByContent[Path]
    """JSONL of {prompt, response}; each response is the chosen answer of its pairs, unless it is longer than
    max_new_tokens"""
    held_out: ByContent[Path | None] = None
    """JSONL of {prompt, response} for preference pairs to evaluate on"""
    samples: PositiveInt = 1
    """answers sampled per training prompt"""
    held_out_samples: PositiveInt = 2
    """answers sampled per held-out prompt; more pairs make the measured accuracy less noisy"""
    max_prompts: NonNegativeInt = 0
    """use at most this many training prompts, chosen at random; 0 uses all"""
    mismatched_share: Share = 0.0
    """share of the training prompts that get one more pair, whose rejected answer is what a person wrote for another
    prompt, so that the reward model learns whether an answer fits its prompt"""
    max_new_tokens: PositiveInt = 64
    """token budget of a sampled answer; one that does not end within it makes no pair"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    rows: ChangesBits[PositiveInt] = 256
    """answers generated in parallel; changes speed and memory only"""


class RewardConfig(StageConfig):
    """Train a reward model on preference pairs (pairwise ranking loss)."""

    first = ("held_out", "epochs", "batch_size", "micro_batch_size", "optimizer.learning_rate", "lora.rank")

    model: ByContent[ModelName]
    """run, model or adapter folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    preferences: ByContent[Path]
    """folder of a preferences stage, or a JSONL of {prompt, chosen, rejected}"""
    held_out: ByContent[Path | None] = None
    """JSONL of {prompt, chosen, rejected} to evaluate on; null: that of the preferences stage"""
    epochs: Extends[PositiveFloat] = 1.0
    """passes over the preference pairs; may be a fraction. More than a run has extends it"""
    batch_size: PositiveInt = 16
    """preference pairs per optimizer step"""
    micro_batch_size: ChangesBits[PositiveInt] = 16
    """preference pairs per forward pass; changes memory, not results"""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """margin of the ranking loss"""
    normalize: bool = True
    """after training, scale the scores to mean 0 and variance 1 over fresh samples of the reference policy, on the
    prompts of the training pairs, scored as PPO would score them"""
    reference: ByContent[ModelName | None] = None
    """policy that is sampled from to normalize: the one PPO will start from; null: `model`"""
    normalization_samples: PositiveInt = 512
    """how many samples the scores are normalized on"""
    max_new_tokens: PositiveInt = 64
    """token budget of those samples: that of the PPO to come"""
    temperature: PositiveFloat = 1.0
    """sampling temperature of those samples"""
    closed: Closing | None = None
    """how this model reads answers that are cut at a token budget: line: to the last whole line, and ended; end: ended
    where they were cut; as_is: unended; null: line where the chosen answers are written in lines of at most 80
    characters, as code is, else end"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.004, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()
