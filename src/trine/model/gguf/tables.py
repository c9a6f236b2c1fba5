"""GGUF's metadata keys and tensor names of four architectures, and their Hugging Face counterparts.

Reading and writing use the same tables. Source: the GGUF specification and llama.cpp's `llama-arch.cpp`. `{i}` is the
layer; keys are given without the prefix of the architecture (`llama.` in `llama.context_length`).
"""

from dataclasses import dataclass

SMALL_NAMES = ("position_embd.", "rope_freqs.")
"""Tensors that llama.cpp requires in fp32, like every vector."""

ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Architecture:
    """`keys`: metadata key -> key of config.json. `tensors`: GGUF name -> Hugging Face name."""

    keys: dict[str, str]
    tensors: dict[str, str]
    required: tuple[str, ...]
    transposed: tuple[str, ...] = ()
    """tensors that Hugging Face stores as [in, out]"""
    interleaved: tuple[str, ...] = ()
    """tensors whose heads llama.cpp rotates in adjacent pairs, and Hugging Face in halves"""

    def names(self, layers: int) -> dict[str, str]:
        """GGUF name -> Hugging Face name of every tensor of a model with this many layers."""
        return {
            theirs.format(i=layer): ours.format(i=layer)
            for theirs, ours in self.tensors.items()
            for layer in range(layers if "{i}" in theirs else 1)
        }


_GPT2 = Architecture(
    keys={
        "context_length": "n_positions",
        "embedding_length": "n_embd",
        "block_count": "n_layer",
        "feed_forward_length": "n_inner",
        "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    required=("context_length", "embedding_length", "block_count", "attention.head_count"),
    tensors={
        "token_embd.weight": "transformer.wte.weight",
        "position_embd.weight": "transformer.wpe.weight",
        "output_norm.weight": "transformer.ln_f.weight",
        "output_norm.bias": "transformer.ln_f.bias",
        "output.weight": "lm_head.weight",
        **{
            f"blk.{{i}}.{theirs}.{kind}": f"transformer.h.{{i}}.{ours}.{kind}"
            for theirs, ours in {
                "attn_norm": "ln_1",
                "attn_qkv": "attn.c_attn",
                "attn_output": "attn.c_proj",
                "ffn_norm": "ln_2",
                "ffn_up": "mlp.c_fc",
                "ffn_down": "mlp.c_proj",
            }.items()
            for kind in ("weight", "bias")
        },
    },
    transposed=("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
)

_LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_LLAMA_REQUIRED = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)  # fmt: skip
_LLAMA_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
}
_QWEN2_BIASES = {f"blk.{{i}}.attn_{part}.bias": f"model.layers.{{i}}.self_attn.{part}_proj.bias" for part in "qkv"}
_QWEN3_NORMS = {
    f"blk.{{i}}.attn_{part}_norm.weight": f"model.layers.{{i}}.self_attn.{part}_norm.weight" for part in "qk"
}

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": _GPT2,
    "llama": Architecture(_LLAMA_KEYS, _LLAMA_TENSORS, _LLAMA_REQUIRED, interleaved=("attn_q.weight", "attn_k.weight")),
    "qwen2": Architecture(_LLAMA_KEYS, {**_LLAMA_TENSORS, **_QWEN2_BIASES}, _LLAMA_REQUIRED),
    "qwen3": Architecture(_LLAMA_KEYS, {**_LLAMA_TENSORS, **_QWEN3_NORMS}, _LLAMA_REQUIRED),
}
"""By `general.architecture`, which is also the `model_type` of config.json."""
