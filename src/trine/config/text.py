"""Configs of the stages that learn from plain text: tokenizer and pretrain; and of mining tasks from it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from trine.config.base import (
    Config,
    LoopConfig,
    NonNegativeInt,
    OptimizerConfig,
    PositiveBytes,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
)
from trine.config.corpus import CorpusConfig
from trine.config.resumption import ByContent, ChangesBits, Extends, MayChange
from trine.config.scale import with_depth


class TokenizerConfig(StageConfig):
    """Train a byte-level BPE tokenizer on a corpus."""

    first = ("corpus.folders", "corpus.standard_library", "vocab_size")

    corpus: CorpusConfig = CorpusConfig()
    vocab_size: PositiveInt = 32768
    """number of tokens, including the 256 bytes and 4 reserved tokens"""
    max_bytes: PositiveBytes = 2_000_000_000
    """train on at most this many bytes, from the beginning of the corpus; more changes little and takes memory"""


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
    """context length, in tokens"""


class ShardsConfig(StageConfig):
    """Encode a corpus once into memory-mapped token shards, for any number of pretraining runs."""

    first = ("corpus.folders", "corpus.standard_library")

    corpus: CorpusConfig = CorpusConfig()
    tokenizer: ByContent[Path]
    """folder of a tokenizer stage, or of a model"""


class PretrainConfig(StageConfig):
    """Train a GPT from scratch on plain text."""

    first = ("corpus.folders", "depth", "tokens", "epochs", "batch_size", "micro_batch_size", "optimizer.learning_rate")

    corpus: CorpusConfig = CorpusConfig()
    tokenizer: ByContent[Path]
    """folder of a tokenizer stage"""
    depth: MayChange[PositiveInt | None] = None
    """number of blocks, from which width, heads, context, row_tokens, tokens, batch size and learning rates are derived
    (12 is GPT-2's 124M shape); any of these that is given explicitly is kept"""
    tokens_per_parameter: MayChange[PositiveFloat] = 20.0
    """with depth: how many tokens to train on for each parameter of the blocks (Hoffmann et al. 2022)"""
    shards: ByContent[Path | None] = None
    """folder of a shards stage, instead of a corpus; null encodes the corpus into the run folder"""
    packing: Literal["packed", "windows", "stream"] = "packed"
    """how documents become rows. packed: best-fit packing, attention and positions restart in each document, rows are
    padded, no token is dropped; windows: full windows of each document, the remainder dropped (as codeparrot does);
    stream: windows over all documents joined by end-of-text"""
    model: ModelShape = ModelShape()
    tokens: Extends[PositiveInt] = 100_000_000
    """number of tokens to train on; the corpus is repeated as often as needed, reshuffled each time. More than a run
    has extends it: the learning rate then follows the schedule of the new length"""
    epochs: Extends[PositiveFloat | None] = None
    """passes over the training rows, instead of tokens; may be a fraction"""
    row_tokens: PositiveInt = 1024
    """length of a training row, at most the model's context"""
    batch_size: PositiveInt = 32
    """rows per optimizer step, over all processes"""
    micro_batch_size: ChangesBits[PositiveInt] = 32
    """rows per forward pass, in one process; changes memory, not results"""
    evaluation_tokens: MayChange[PositiveInt] = 60_000
    """tokens of each held-out part that an evaluation during training reads; the final evaluation reads all"""
    recompute_blocks: MayChange[bool] = False
    """gradient checkpointing: keep block inputs, recompute the rest in the backward pass; less memory, about a
    third more time, the same results"""
    compile: ChangesBits[Literal["auto", "on", "off"]] = "auto"
    """compile the forward and backward pass by torch.compile; auto: on a GPU"""
    parallel: ChangesBits[Literal["auto", "ddp", "fsdp"]] = "auto"
    """under torchrun: ddp keeps the whole model in every process, fsdp shards it over them; auto is ddp"""
    sample_prompts: MayChange[tuple[str, ...]] = ("import numpy as", "def __init__(self")
    """prompts completed greedily at every evaluation (samples.jsonl)"""
    sample_tokens: MayChange[NonNegativeInt] = 32
    """token budget of each completion; 0 writes none"""
    push_to_hub: MayChange[str | None] = None
    """owner/name on the Hugging Face hub to upload the finished model to (log in with `hf auth login`)"""
    push_private: MayChange[bool] = False
    """create that repository as private, if it does not exist"""
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="before")
    @classmethod
    def _from_depth(cls, values: Any) -> Any:
        return with_depth(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_corpus(self) -> "PretrainConfig":
        if self.shards and self.corpus != CorpusConfig():
            raise ValueError("shards already hold a corpus: give either shards or corpus")
        return self


class FunctionsConfig(StageConfig):
    """Mine tasks from code: the prompt is a signature with its docstring, the response the body that a person wrote."""

    first = ("corpus.folders", "corpus.standard_library")

    corpus: CorpusConfig = CorpusConfig()
    tokenizer: ByContent[Path]
    """folder of a tokenizer stage; lengths are counted in its tokens"""
    max_prompt_tokens: PositiveInt = 80
    """longest prompt to keep, in tokens"""
    max_response_tokens: PositiveInt = 64
    """longest body to keep, in tokens, its end token included"""
    min_response_tokens: PositiveInt = 8
    """shortest body to keep, in tokens"""
    held_out_reward_share: Share = 0.4
    """share of the tasks, by a hash of their prompt, that only the held-out reward model is trained on"""
