"""The four families as tables: a `ModelConfig` and its weights to Hugging Face form and back.

A family is data: which `config.json` keys hold which field, and which tensor names hold which parameter. One
function walks the table in each direction. Whatever in a `config.json` would change the numbers and is not in
the table is refused by name.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from trine.model.config import ModelConfig
from trine.runtime.errors import TrineError

Layout = Literal["plain", "transposed", "qkv", "qkv_transposed", "gate_up"]


@dataclass(frozen=True)
class Family:
    """`weights`: our name -> (their names, layout); `{i}` is the layer. `fixed`: config keys of one accepted value."""

    model_type: str
    architecture: str
    shape: ModelConfig
    weights: dict[str, tuple[tuple[str, ...], Layout]]
    config_keys: dict[str, str]
    fixed: dict[str, Any] = field(default_factory=dict)


_GPT2_SHAPE = ModelConfig(
    vocab_size=1, context=1, layers=1, width=1, heads=1, kv_heads=1, head_dim=1, mlp_width=4, norm="layer",
    norm_epsilon=1e-5, position="learned", mlp="gelu", qkv_bias=True, projection_bias=True, qk_norm=False,
)  # fmt: skip
_LLAMA_SHAPE = replace(
    _GPT2_SHAPE, norm="rms", norm_epsilon=1e-6, position="rotary", mlp="swiglu", head_dim=2, qkv_bias=False,
    projection_bias=False, tied_embeddings=False,
)  # fmt: skip

_GPT2_WEIGHTS: dict[str, tuple[tuple[str, ...], Layout]] = {
    "embedding.weight": (("transformer.wte.weight",), "plain"),
    "position_embedding.weight": (("transformer.wpe.weight",), "plain"),
    "blocks.{i}.attention_norm.weight": (("transformer.h.{i}.ln_1.weight",), "plain"),
    "blocks.{i}.attention_norm.bias": (("transformer.h.{i}.ln_1.bias",), "plain"),
    "blocks.{i}.attention.qkv.weight": (("transformer.h.{i}.attn.c_attn.weight",), "transposed"),
    "blocks.{i}.attention.qkv.bias": (("transformer.h.{i}.attn.c_attn.bias",), "plain"),
    "blocks.{i}.attention.out.weight": (("transformer.h.{i}.attn.c_proj.weight",), "transposed"),
    "blocks.{i}.attention.out.bias": (("transformer.h.{i}.attn.c_proj.bias",), "plain"),
    "blocks.{i}.mlp_norm.weight": (("transformer.h.{i}.ln_2.weight",), "plain"),
    "blocks.{i}.mlp_norm.bias": (("transformer.h.{i}.ln_2.bias",), "plain"),
    "blocks.{i}.mlp.up.weight": (("transformer.h.{i}.mlp.c_fc.weight",), "transposed"),
    "blocks.{i}.mlp.up.bias": (("transformer.h.{i}.mlp.c_fc.bias",), "plain"),
    "blocks.{i}.mlp.down.weight": (("transformer.h.{i}.mlp.c_proj.weight",), "transposed"),
    "blocks.{i}.mlp.down.bias": (("transformer.h.{i}.mlp.c_proj.bias",), "plain"),
    "norm.weight": (("transformer.ln_f.weight",), "plain"),
    "norm.bias": (("transformer.ln_f.bias",), "plain"),
    "head.weight": (("lm_head.weight",), "plain"),
}

_ATTENTION = "model.layers.{i}.self_attn."
_MLP = "model.layers.{i}.mlp."
_LLAMA_WEIGHTS: dict[str, tuple[tuple[str, ...], Layout]] = {
    "embedding.weight": (("model.embed_tokens.weight",), "plain"),
    "blocks.{i}.attention_norm.weight": (("model.layers.{i}.input_layernorm.weight",), "plain"),
    "blocks.{i}.attention.qkv.weight": (
        (_ATTENTION + "q_proj.weight", _ATTENTION + "k_proj.weight", _ATTENTION + "v_proj.weight"), "qkv",
    ),
    "blocks.{i}.attention.qkv.bias": (
        (_ATTENTION + "q_proj.bias", _ATTENTION + "k_proj.bias", _ATTENTION + "v_proj.bias"), "qkv",
    ),
    "blocks.{i}.attention.q_norm": ((_ATTENTION + "q_norm.weight",), "plain"),
    "blocks.{i}.attention.k_norm": ((_ATTENTION + "k_norm.weight",), "plain"),
    "blocks.{i}.attention.out.weight": ((_ATTENTION + "o_proj.weight",), "plain"),
    "blocks.{i}.mlp_norm.weight": (("model.layers.{i}.post_attention_layernorm.weight",), "plain"),
    "blocks.{i}.mlp.up.weight": ((_MLP + "gate_proj.weight", _MLP + "up_proj.weight"), "gate_up"),
    "blocks.{i}.mlp.down.weight": ((_MLP + "down_proj.weight",), "plain"),
    "norm.weight": (("model.norm.weight",), "plain"),
    "head.weight": (("lm_head.weight",), "plain"),
}  # fmt: skip

_LLAMA_KEYS = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_width": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "tied_embeddings": "tie_word_embeddings",
}
_GPT2_KEYS = {
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "width": "n_embd",
    "heads": "n_head",
    "mlp_width": "n_inner",
    "norm_epsilon": "layer_norm_epsilon",
    "tied_embeddings": "tie_word_embeddings",
}
_GATED_FIXED = {"hidden_act": "silu", "rope_scaling": None, "mlp_bias": False}

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "gpt2", "GPT2LMHeadModel", _GPT2_SHAPE, _GPT2_WEIGHTS, _GPT2_KEYS,
            {
                "activation_function": "gelu_new", "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
                "add_cross_attention": False,
            },
        ),
        Family("llama", "LlamaForCausalLM", _LLAMA_SHAPE, _LLAMA_WEIGHTS, _LLAMA_KEYS,
               {**_GATED_FIXED, "attention_bias": False}),
        Family("qwen2", "Qwen2ForCausalLM", replace(_LLAMA_SHAPE, qkv_bias=True), _LLAMA_WEIGHTS, _LLAMA_KEYS,
               {**_GATED_FIXED, "use_sliding_window": False}),
        Family("qwen3", "Qwen3ForCausalLM", replace(_LLAMA_SHAPE, qk_norm=True), _LLAMA_WEIGHTS, _LLAMA_KEYS,
               {**_GATED_FIXED, "attention_bias": False, "use_sliding_window": False}),
    )
}  # fmt: skip

_REQUIRED = ("vocab_size", "context", "layers", "width", "heads")
_ARCHITECTURE_FIELDS = ("norm", "position", "mlp", "qkv_bias", "projection_bias", "qk_norm")
# Keys that do not change what the network computes at inference, written by many tools. `sliding_window` is read
# only where `use_sliding_window` is true, which is refused.
_HARMLESS = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id", "initializer_range", "attention_dropout", "attn_pdrop", "embd_pdrop",
    "resid_pdrop", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "n_ctx", "task_specific_params", "_name_or_path", "num_labels", "id2label", "label2id",
    "max_window_layers", "pretraining_tp", "trine", "rope_parameters", "layer_types", "problem_type",
    "chunk_size_feed_forward", "is_encoder_decoder", "output_attentions", "output_hidden_states", "return_dict",
    "sliding_window",
}  # fmt: skip


def family_of(config: ModelConfig) -> Family:
    """The family whose architecture `config` has."""
    for family in FAMILIES.values():
        if all(getattr(config, name) == getattr(family.shape, name) for name in _ARCHITECTURE_FIELDS):
            return family
    choices = {name: getattr(config, name) for name in _ARCHITECTURE_FIELDS}
    raise TrineError(f"no Hugging Face family has the shape {choices}; choose that of {', '.join(FAMILIES)}")


def to_hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of `config`, for the language model class of its family."""
    family = family_of(config)
    described = {key: getattr(config, name) for name, key in family.config_keys.items()}
    described |= {key: value for key, value in family.fixed.items() if value is not None}
    if "rope_theta" in described:  # transformers 5 reads the second form, earlier ones the first
        described["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    return described | {"model_type": family.model_type, "architectures": [family.architecture]}


def from_hugging_face_config(described: dict[str, Any], place: str) -> ModelConfig:
    """The `ModelConfig` of a `config.json`; raises `TrineError` naming every key that is not understood."""
    family = FAMILIES.get(described.get("model_type", ""))
    if family is None:
        raise TrineError(f"{place}: model_type={described.get('model_type')!r}; Trine opens {', '.join(FAMILIES)}")
    described = _flatten_rope(described)
    unknown = set(described) - set(family.config_keys.values()) - set(family.fixed) - _HARMLESS
    if unknown:
        raise TrineError(f"{place}: unknown keys {sorted(unknown)} could change the numbers; Trine will not guess")
    for key, accepted in family.fixed.items():
        if described.get(key, accepted) != accepted:
            raise TrineError(f"{place}: {key}={described[key]!r} is not supported, only {accepted!r}")
    missing = [family.config_keys[name] for name in _REQUIRED if described.get(family.config_keys[name]) is None]
    if missing:
        raise TrineError(f"{place}: keys {missing} are missing")
    values = {name: described[key] for name, key in family.config_keys.items() if described.get(key) is not None}
    values.setdefault("kv_heads", values["heads"])
    values.setdefault("head_dim", values["width"] // values["heads"])
    values.setdefault("mlp_width", 4 * values["width"])
    values.setdefault("tied_embeddings", family.model_type == "gpt2")
    return replace(family.shape, **values)


def _flatten_rope(described: dict[str, Any]) -> dict[str, Any]:
    rope = described.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or rope.keys() - {"rope_type", "rope_theta"}:
        return described | {"rope_scaling": rope}
    return described | ({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})


def to_hugging_face_weights(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our parameters under their names and in their layout."""
    result: dict[str, Tensor] = {}
    for ours, theirs, layout in _entries(config):
        if ours not in weights:
            continue
        tensor = weights[ours].T if layout == "transposed" else weights[ours]
        parts = tensor.split(_block_rows(config, layout)) if len(theirs) > 1 else (tensor,)
        result |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return result


def from_hugging_face_weights(weights: dict[str, Tensor], config: ModelConfig, place: str) -> dict[str, Tensor]:
    """Their tensors as our parameters; raises `TrineError` naming what is missing or left over."""
    weights = _with_trunk_prefix(weights, family_of(config))
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    for ours, theirs, layout in _entries(config):
        missing = [name for name in theirs if name not in weights]
        if missing:
            raise TrineError(f"{place}: tensors {missing} are missing")
        tensor = torch.cat([weights[name] for name in theirs]) if len(theirs) > 1 else weights[theirs[0]]
        result[ours] = tensor.T.contiguous() if layout == "transposed" else tensor
        used |= set(theirs)
    left = {name for name in set(weights) - used if not name.endswith((".attn.bias", ".attn.masked_bias", "inv_freq"))}
    left -= {"lm_head.weight"} if config.tied_embeddings else set()
    if left:
        raise TrineError(f"{place}: tensors {sorted(left)[:5]} have no place in the model")
    return result


def _with_trunk_prefix(weights: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """A bare trunk (`GPT2Model`, as GPT-2 itself is published) lacks the first part of its tensors' names."""
    prefix = family.weights["embedding.weight"][0][0].split(".")[0] + "."
    if any(name.startswith(prefix) for name in weights):
        return weights
    return {name if name.startswith("lm_head.") else prefix + name: tensor for name, tensor in weights.items()}


def _entries(config: ModelConfig) -> list[tuple[str, tuple[str, ...], Layout]]:
    """Every (our name, their names, layout) of this config, layers spelled out."""
    rows: list[tuple[str, tuple[str, ...], Layout]] = []
    absent = set() if config.qk_norm else {"blocks.{i}.attention.q_norm", "blocks.{i}.attention.k_norm"}
    absent |= set() if config.qkv_bias else {"blocks.{i}.attention.qkv.bias"}
    absent |= {"head.weight"} if config.tied_embeddings else set()
    for ours, (theirs, layout) in family_of(config).weights.items():
        if ours in absent:
            continue
        for layer in range(config.layers if "{i}" in ours else 1):
            rows.append((ours.format(i=layer), tuple(name.format(i=layer) for name in theirs), layout))
    return rows


def _block_rows(config: ModelConfig, layout: Layout) -> list[int]:
    if layout == "gate_up":
        return [config.mlp_width] * 2
    return [config.heads * config.head_dim] + [config.kv_heads * config.head_dim] * 2


def fused_blocks(name: str, config: ModelConfig) -> list[int] | None:
    """Row counts of the matrices fused in parameter `name`, None when it is a single one."""
    if name.endswith("attention.qkv.weight"):
        return _block_rows(config, "qkv")
    if name.endswith("mlp.up.weight") and config.mlp == "swiglu":
        return _block_rows(config, "gate_up")
    return None
