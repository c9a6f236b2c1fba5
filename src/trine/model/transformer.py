"""One Transformer for four families (Vaswani et al. 2017; Radford et al. 2019; Touvron et al. 2023; Qwen3 2025).

The forward pass ends at hidden states: `algorithms.text_log_probs` computes logits, a chunk of rows at a time, so the
[B, T, V] tensor never exists. Parameters are stored in fp32 when training; products run in `compute_dtype`, and weights
are cast when they are used, so the master weights stay exact.

Shapes: B batch, T time, D width, H query heads, K key/value heads, d head_dim, F mlp_width, V vocabulary.
Invariant: hidden states at position t depend on ids at positions <= t of the same segment only.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trine.model.config import ModelConfig
from trine.model.kernels import (
    add_norm,
    apply_rotary,
    attention,
    causal_attention,
    embedding,
    gelu,
    has_native_attention,
    linear,
    rotary_table,
    segments_bias,
    starts_bias,
    swiglu,
)
from trine.model.rope import rotary_frequencies


class KeyValueCache(Protocol):
    """Keys and values of earlier tokens, stored by the engine between calls."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values [B, K, T, d] of one layer; return all that are attended to, [B, K, S, d]."""
        ...


@dataclass(frozen=True)
class AttentionInputs:
    """Positions, mask and cache of attention, the same in every block. Of `bias`, `starts` and `segments` one at most;
    without them: plain causal."""

    rotary: tuple[Tensor, Tensor] | None
    """cos and sin, [B or 1, T, 1, d] each"""
    bias: Tensor | None
    """[B or 1, T, S], added to the attention scores"""
    starts: Tensor | None
    """[B, T]: position t attends to starts[t] .. t"""
    segments: Tensor | None
    """[B, T]: 0 the prompt of a row, 1, 2, ... its answers, -1 padding; an answer sees the prompt and itself"""
    cache: KeyValueCache | None


class Linear(nn.Linear):
    """A linear layer that casts its weight to the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Embedding(nn.Embedding):
    """A lookup table, one row per id."""

    def forward(self, input: Tensor) -> Tensor:
        return embedding(input, self.weight)


class Norm(nn.Module):
    """LayerNorm with bias or RMSNorm, statistics in fp32."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm == "layer" else None
        self.epsilon = config.norm_epsilon

    def forward(self, x: Tensor, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x + delta, norm(x + delta)), each [B, T, D]."""
        return add_norm(x, delta, self.weight, self.bias, self.epsilon)


class Attention(nn.Module):
    """Causal self-attention, q, k and v in one product; optional QK-norm and rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads = config.heads + 2 * config.kv_heads
        self.qkv = Linear(config.width, heads * config.head_dim, bias=config.qkv_bias)
        self.out = Linear(config.heads * config.head_dim, config.width, bias=config.projection_bias)
        if config.qk_norm:
            self.q_norm = nn.Parameter(torch.ones(config.head_dim))
            self.k_norm = nn.Parameter(torch.ones(config.head_dim))

    def forward(self, x: Tensor, inputs: AttentionInputs, layer: int) -> Tensor:
        config = self.config
        B, T, _ = x.shape  # noqa: N806
        H, K = config.heads, config.kv_heads  # noqa: N806
        qkv = self.qkv(x).view(B, T, H + 2 * K, config.head_dim)  # heads of q, then of k, then of v
        scales = (self.q_norm, self.k_norm) if config.qk_norm else None
        qkv = apply_rotary(qkv, scales, inputs.rotary, (H, K), config.norm_epsilon)
        if inputs.bias is None and inputs.cache is None:
            return self.out(causal_attention(qkv, inputs.starts, H, inputs.segments))
        query, key, value = qkv.transpose(1, 2).split((H, K, K), 1)  # [B, H or K, T, d]
        if inputs.cache is not None:
            key, value = inputs.cache.extend(layer, key, value)  # [B, K, S, d], S >= T
        mixed = attention(query, key, value, inputs.bias)  # [B, H, T, d]
        return self.out(mixed.transpose(1, 2).reshape(B, T, H * config.head_dim))


class Mlp(nn.Module):
    """gelu(x W) W or the gated silu(x G) * (x U) W (Shazeer 2020), gate and up in one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        hidden = config.mlp_width * (2 if self.gated else 1)
        self.up = Linear(config.width, hidden, bias=config.projection_bias)
        self.down = Linear(config.mlp_width, config.width, bias=config.projection_bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)  # [B, T, F], or [B, T, 2 F] when gated
        return self.down(swiglu(hidden) if self.gated else gelu(hidden))


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width, config)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config.width, config)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, delta: Tensor | None, inputs: AttentionInputs, layer: int) -> tuple[Tensor, Tensor]:
        """Return the residual stream before the MLP's output is added, and that output, [B, T, D] each.

        `delta` is the previous block's output, which is not yet added to `x`: add_norm adds it in the same pass.
        """
        x, normalized = self.attention_norm(x, delta)
        x, normalized = self.mlp_norm(x, self.attention(normalized, inputs, layer))
        return x, self.mlp(normalized)


def _table(rows: int, width: int) -> Embedding:
    """An uninitialized embedding; `initialize` or a checkpoint sets its values.

    (On the meta device, PyTorch's own initialisation would import its compiler, slower than loading a model.)
    """
    table = Embedding.from_pretrained(torch.empty(rows, width), freeze=False)
    assert isinstance(table, Embedding)
    return table


class Transformer(nn.Module):
    """A decoder-only Transformer from token ids [B, T] to hidden states [B, T, D].

    Example::

        model = Transformer(qwen3_config(vocab_size=8192, context=256, layers=4, width=256, heads=4))
        initialize(model, seed=0)
        hidden = model(torch.tensor([[1, 2, 3]]))
        logits = hidden @ model.output_weight.T

    `output_weight` [V, D] maps hidden states to logits. `recompute_blocks` is activation checkpointing (Chen et al.
    2016): keep block inputs, recompute the rest in the backward pass. It costs a third more computation, needs a
    fraction of the memory and gives the same results.
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.recompute_blocks = False
        self.embedding = _table(config.vocab_size, config.width)
        if config.position == "learned":
            self.position_embedding = _table(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config)
        if not config.tied_embeddings:
            self.head = Linear(config.width, config.vocab_size, bias=False)

    @property
    def output_weight(self) -> Tensor:
        return self.embedding.weight if self.config.tied_embeddings else self.head.weight

    @property
    def can_share_prompts(self) -> bool:
        """Whether answers behind one prompt (`segments`) are read without a mask of [T, T]: by the C++ of attention."""
        like = torch.empty(0, dtype=self.compute_dtype, device=self.output_weight.device)
        return has_native_attention(like, self.config.head_dim)

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        bias: Tensor | None = None,
        starts: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] after the final norm, in `compute_dtype`.

        `ids` [B, T]; `positions` [B, T], by default 0, 1, 2, ...; `bias` [B or 1, T, S], added to the attention scores,
        by default causal; `starts` [B, T] int64, for packed rows: position t attends to starts[t] .. t; `segments`
        [B, T] int64, for answers behind one prompt (`kernels.causal_attention`; `positions` say where each goes on),
        whose hidden states at padding mean nothing; `cache`: keys and values of earlier calls.

        Raises ValueError where two of `bias`, `starts` and `segments` are given, or one of the latter with `cache`.
        """
        masks = [starts, segments, cache if bias is None else bias]
        if sum(each is not None for each in masks) > 1:
            raise ValueError("starts and segments are attention masks; they go with no other, nor with bias or cache")
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        x = self.embedding(ids)  # [B, T, D], fp32
        rotary = None
        if self.config.position == "learned":
            x = x + self.position_embedding(positions)
        else:
            frequencies = rotary_frequencies(self.config, ids.device)
            rotary = rotary_table(frequencies, positions, self.compute_dtype)
        x, delta = x.to(self.compute_dtype), None
        if starts is not None and not has_native_attention(x, self.config.head_dim):
            bias, starts = starts_bias(starts, self.compute_dtype), None  # once, rather than in every block
        if segments is not None and not has_native_attention(x, self.config.head_dim):
            bias, segments = segments_bias(segments, self.compute_dtype), None
        inputs = AttentionInputs(rotary, bias, starts, segments, cache)
        for layer, block in enumerate(self.blocks):
            if self.recompute_blocks and torch.is_grad_enabled():
                x, delta = checkpoint(block, x, delta, inputs, layer, use_reentrant=False)
            else:
                x, delta = block(x, delta, inputs, layer)
        return self.norm(x, delta)[1]


@torch.no_grad()
def initialize(model: Transformer, seed: int) -> None:
    """GPT-2's initialisation (std 0.02, residual projections divided by sqrt(2 layers)), from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    residual_scale = (2 * model.config.layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        std = 0.02 * (residual_scale if name.endswith(("attention.out.weight", "mlp.down.weight")) else 1.0)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
