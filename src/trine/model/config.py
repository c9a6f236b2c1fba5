"""The architecture of a Transformer: every choice in which GPT-2, Llama, Qwen2 and Qwen3 differ.

`ModelConfig` describes the architecture only, nothing about training or chat. Two functions build the architectures
that Trine trains from scratch; for imported models the fields come from their `config.json`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions scaled to a longer context than the model was first trained on.

    `linear` divides every frequency by `factor` (Chen et al. 2023, eq. 4). `llama3` (Llama 3.1) divides the frequencies
    with fewer than `low_frequency_factor` rotations in `original_context` tokens, keeps those with more than
    `high_frequency_factor`, and interpolates in between; only `llama3` uses the last three fields.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise TrineError(f"rope scaling has factor={self.factor}; it must be a positive number")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor < math.inf or self.original_context < 1:
            raise TrineError(
                f"rope scaling has low_frequency_factor={self.low_frequency_factor}, high_frequency_factor="
                f"{self.high_frequency_factor}, original_context={self.original_context}; "
                "all must be positive, and the first smaller than the second"
            )


@dataclass(frozen=True)
class ModelConfig:
    """One decoder-only Transformer.

    `norm`: layer (with bias, GPT-2) or rms. `position`: learned embedding (GPT-2) or rotary. `mlp`: gelu
    (tanh approximation, GPT-2) or swiglu. There are two bias options because Qwen2 has biases on q, k and v only.
    """

    vocab_size: int
    context: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    norm: Literal["layer", "rms"] = "rms"
    norm_epsilon: float = 1e-6
    position: Literal["learned", "rotary"] = "rotary"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    mlp: Literal["gelu", "swiglu"] = "swiglu"
    qkv_bias: bool = False
    projection_bias: bool = False
    qk_norm: bool = True
    tied_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise TrineError(
                f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}; "
                "every key/value head must serve the same number of query heads"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise TrineError(f"head_dim={self.head_dim} is odd; rotary positions rotate pairs of dimensions")
        if self.position == "learned" and self.rope_scaling is not None:
            raise TrineError("rope_scaling applies to rotary positions; this model has position='learned'")

    @property
    def parameter_count(self) -> int:
        """Number of parameters, tied embeddings counted once."""
        attention_in = self.width * (self.heads + 2 * self.kv_heads) * self.head_dim
        attention_out = self.heads * self.head_dim * self.width
        gates = 2 if self.mlp == "swiglu" else 1
        mlp = (gates + 1) * self.width * self.mlp_width
        norm = self.width * (2 if self.norm == "layer" else 1)
        per_layer = attention_in + attention_out + mlp + 2 * norm
        per_layer += 2 * self.head_dim if self.qk_norm else 0
        per_layer += (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        per_layer += 2 * self.width + gates * self.mlp_width if self.projection_bias else 0
        tables = 1 if self.tied_embeddings else 2
        positions = self.context * self.width if self.position == "learned" else 0
        return self.layers * per_layer + norm + tables * self.vocab_size * self.width + positions


def gpt2_config(
    vocab_size: int = 50257, context: int = 1024, layers: int = 12, width: int = 768, heads: int = 12
) -> ModelConfig:
    """The GPT-2 architecture (Radford et al. 2019); the defaults are the 124M model."""
    return ModelConfig(
        vocab_size=vocab_size,
        context=context,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=4 * width,
        norm="layer",
        norm_epsilon=1e-5,
        position="learned",
        mlp="gelu",
        qkv_bias=True,
        projection_bias=True,
        qk_norm=False,
    )


def qwen3_config(
    vocab_size: int, context: int, layers: int, width: int, heads: int, *, kv_heads: int | None = None
) -> ModelConfig:
    """The Qwen3 architecture (rotary positions, RMSNorm, QK-norm, SwiGLU); the MLP width is a multiple of 32."""
    return ModelConfig(
        vocab_size=vocab_size,
        context=context,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=width // heads,
        mlp_width=round(width * 8 / 3 / 32) * 32,
    )
