"""Configs of the stages that learn from plain text: tokenizer and pretrain; and of mining tasks from it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from trine.config.base import (
    Config,
    LoopConfig,
    NonNegativeInt,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
)
from trine.config.corpus import CorpusConfig
from trine.config.scale import with_depth


class TokenizerConfig(StageConfig):
    """Train a byte-level BPE tokenizer on a corpus."""

    corpus: CorpusConfig = CorpusConfig()
    vocab_size: PositiveInt = 32768
    """entries, the 256 bytes and 4 reserved tokens included"""
    max_bytes: PositiveInt = 2_000_000_000
    """how much of the corpus, from its beginning, to learn from: more changes little and takes memory"""


class ModelShape(Config):
    """The model to train from scratch."""

    family: Literal["qwen3", "gpt2"] = "qwen3"
    """qwen3: rotary positions, RMS norms, QK-norm, SwiGLU. gpt2: learned positions, LayerNorm, GELU"""
    layers: PositiveInt = 12
    """number of blocks"""
    width: PositiveInt = 768
    """size of the hidden states"""
    heads: PositiveInt = 12
    """attention heads"""
    context: PositiveInt = 1024
    """longest text the model can read, in tokens"""


class ShardsConfig(StageConfig):
    """Encode a corpus to memory-mapped token shards, once for any number of pretraining runs."""

    corpus: CorpusConfig = CorpusConfig()
    tokenizer: Path
    """folder of a tokenizer stage, or of a model"""


class PretrainConfig(StageConfig):
    """Train a GPT from scratch on plain text."""

    corpus: CorpusConfig = CorpusConfig()
    tokenizer: Path
    """folder of a tokenizer stage"""
    depth: PositiveInt | None = None
    """the dial: this many blocks, and width, heads, context, row_tokens, tokens, batch and learning rates to match
    (12 is GPT-2's 124M shape); whatever is named besides it wins, and the rest follows"""
    tokens_per_parameter: PositiveFloat = 20.0
    """horizon that depth gives, in tokens per parameter of the blocks (Hoffmann et al. 2022)"""
    shards: Path | None = None
    """folder of a shards stage, instead of a corpus; null makes them in the run folder from corpus and tokenizer"""
    packing: Literal["packed", "windows", "stream"] = "packed"
    """how documents become rows. packed: attention and positions restart in each document, rows are filled best-fit and
    padded, no token is dropped; windows: codeparrot's, whole windows of each document, its rest dropped; stream:
    windows over all documents joined by end-of-text"""
    model: ModelShape = ModelShape()
    tokens: PositiveInt = 100_000_000
    """how many tokens to train on; the corpus is repeated, reshuffled, as often as needed"""
    epochs: PositiveFloat | None = None
    """passes over the training rows instead of tokens; may be a fraction"""
    row_tokens: PositiveInt = 1024
    """length of a training row, at most the model's context"""
    batch_size: PositiveInt = 32
    """rows per optimizer step"""
    micro_batch_size: PositiveInt = 32
    """rows that go through the model at once; changes memory, not results"""
    evaluation_tokens: PositiveInt = 60_000
    """tokens of each held-out part read by each evaluation during training; the last one reads all"""
    recompute_blocks: bool = False
    """gradient checkpointing: keep what enters each block and make the rest again in the backward pass; less memory,
    about a third more time, the same results"""
    compile: Literal["auto", "on", "off"] = "auto"
    """let torch.compile fuse the forward and backward pass; auto: on a GPU"""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """under torchrun: ddp keeps the whole model in every process, fsdp a part of it in each; auto is ddp"""
    sample_prompts: tuple[str, ...] = ("import numpy as", "def __init__(self")
    """beginnings that the model goes on with at every evaluation, each token the likeliest one (samples.jsonl)"""
    sample_tokens: NonNegativeInt = 32
    """token budget of such a sample; 0 writes none"""
    push_to_hub: str | None = None
    """owner/name on the Hugging Face hub to upload the finished model to (log in with `hf auth login`)"""
    push_private: bool = False
    """make that repository private, when it is made"""
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="before")
    @classmethod
    def _turn_the_dial(cls, values: Any) -> Any:
        return with_depth(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_corpus(self) -> "PretrainConfig":
        if self.shards and self.corpus != CorpusConfig():
            raise ValueError("shards already hold a corpus: give either shards or corpus")
        return self


class FunctionsConfig(StageConfig):
    """Mine tasks from code: signature and docstring ask, the body a person wrote answers."""

    corpus: CorpusConfig = CorpusConfig()
    tokenizer: Path
    """folder of a tokenizer stage; budgets are counted in its tokens"""
    max_prompt_tokens: PositiveInt = 80
    """longest prompt kept"""
    max_response_tokens: PositiveInt = 64
    """longest body kept, its end token included"""
    min_response_tokens: PositiveInt = 8
    """shortest body kept"""
    held_out_reward_share: Share = 0.4
    """share of the tasks set apart, by a hash of their prompt, for a second, independent reward model"""
