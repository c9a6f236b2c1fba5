"""Conversion of configs and weights to and from Hugging Face form, as one table per model family.

A family is data: which key of `config.json` holds which field, and which tensors hold which parameter. One function
applies the table in each direction. A key of `config.json` that could change the results and is not in the table is
refused by name (`config_keys.py` has the rule).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from trine.model.config import ModelConfig
from trine.model.config_keys import could_change_numbers, how_to_ignore
from trine.model.rope import MAX_NUMBER, ROPE_KEYS, rope_from_json, rope_to_json
from trine.model.tensor_names import plain_names
from trine.runtime.errors import TrineError

Storage = Literal["plain", "transposed", "qkv", "gate_up"]
_Entry = tuple[str, tuple[str, ...], Storage]  # our name, Hugging Face names, storage


@dataclass(frozen=True)
class Family:
    """`weights`: our name -> (Hugging Face names, storage); `{i}` is the layer. `fixed`: keys with one accepted value.

    `defaults`: the values transformers uses for absent keys, where they differ from Trine's own defaults.
    """

    model_type: str
    architecture: str
    shape: ModelConfig
    weights: dict[str, tuple[tuple[str, ...], Storage]]
    config_keys: dict[str, str]
    fixed: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


_GPT2_SHAPE = ModelConfig(
    vocab_size=1, context=1, layers=1, width=1, heads=1, kv_heads=1, head_dim=1, mlp_width=4, norm="layer",
    norm_epsilon=1e-5, position="learned", mlp="gelu", qkv_bias=True, projection_bias=True, qk_norm=False,
)  # fmt: skip
_LLAMA_SHAPE = replace(
    _GPT2_SHAPE, norm="rms", norm_epsilon=1e-6, position="rotary", mlp="swiglu", head_dim=2, qkv_bias=False,
    projection_bias=False, tied_embeddings=False,
)  # fmt: skip

_GPT2_WEIGHTS: dict[str, tuple[tuple[str, ...], Storage]] = {
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
_LLAMA_WEIGHTS: dict[str, tuple[tuple[str, ...], Storage]] = {
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
_GATED_FIXED = {"hidden_act": "silu", "mlp_bias": False}
_NO_WINDOW = {"sliding_window": None}  # except for Qwen, where `use_sliding_window` disables it

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "gpt2", "GPT2LMHeadModel", _GPT2_SHAPE, _GPT2_WEIGHTS, _GPT2_KEYS,
            {
                "activation_function": "gelu_new", "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
                "add_cross_attention": False, **_NO_WINDOW,
            },
        ),
        Family("llama", "LlamaForCausalLM", _LLAMA_SHAPE, _LLAMA_WEIGHTS, _LLAMA_KEYS,
               {**_GATED_FIXED, **_NO_WINDOW, "attention_bias": False, "pretraining_tp": 1}),
        Family("qwen2", "Qwen2ForCausalLM", replace(_LLAMA_SHAPE, qkv_bias=True), _LLAMA_WEIGHTS, _LLAMA_KEYS,
               {**_GATED_FIXED, "use_sliding_window": False}, {"num_key_value_heads": 32}),
        Family("qwen3", "Qwen3ForCausalLM", replace(_LLAMA_SHAPE, qk_norm=True), _LLAMA_WEIGHTS, _LLAMA_KEYS,
               {**_GATED_FIXED, "attention_bias": False, "use_sliding_window": False},
               {"num_key_value_heads": 32, "head_dim": 128}),
    )
}  # fmt: skip

_REQUIRED = ("vocab_size", "context", "layers", "width", "heads")
_ARCHITECTURE_FIELDS = ("norm", "position", "mlp", "qkv_bias", "projection_bias", "qk_norm")
_FIELD_TYPES = {described.name: described.type for described in fields(ModelConfig)}
# Larger than any dimension of a real model; the size of a matrix of such dimensions still fits in 64 bits.
MAX_DIMENSION = 2**24

# Features that no family here has; accepted while they are disabled, never written.
SWITCHED_OFF: dict[str, Any] = {
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False, "partial_rotary_factor": 1.0, "per_layer_config": None, "pruned_heads": {},
    "quantization_config": None, "rope_interleaved": False, "use_mrope": False,
}  # fmt: skip
# What every family here does, and some codes have a key for.
_ALWAYS: dict[str, Any] = {"is_causal": True, "causal": True, "use_causal_mask": True}
_WITH_ROTARY: dict[str, Any] = {"use_rope": True, "use_rotary": True, "rotary": True, "rotary_pct": 1.0}
# The same functions by other names (tests/model/test_config_keys.py compares them).
_SAME_FUNCTION = {
    "gelu_new": ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"),
    "silu": ("swish",),
}
# `n_ctx` is an old alias of n_positions; windows are looked at together (`_refuse_windows`).
_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_FULL_ATTENTION = "full_attention"


def family_of(config: ModelConfig) -> Family:
    """The family whose architecture `config` has."""
    for family in FAMILIES.values():
        if all(getattr(config, name) == getattr(family.shape, name) for name in _ARCHITECTURE_FIELDS):
            return family
    choices = {name: getattr(config, name) for name in _ARCHITECTURE_FIELDS}
    raise TrineError(f"no Hugging Face family has the architecture {choices}; choose one of {', '.join(FAMILIES)}")


def to_hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    """The contents of `config.json` for `config`, for the causal language model of its family."""
    family = family_of(config)
    described = {key: getattr(config, name) for name, key in family.config_keys.items()}
    described |= {key: value for key, value in family.fixed.items() if value is not None}
    described |= rope_to_json(config) if config.position == "rotary" else {}
    return described | {"model_type": family.model_type, "architectures": [family.architecture]}


def from_hugging_face_config(described: dict[str, Any], place: str) -> ModelConfig:
    """The `ModelConfig` of a `config.json`; raises `TrineError` naming every unsupported key."""
    name = described.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise TrineError(f"{place}: model_type={name!r}; Trine opens {', '.join(FAMILIES)}")
    _refuse_unsupported(described, family, place)
    values = _read_values(described, family, place)
    if family.shape.position == "rotary":
        values |= rope_from_json(described, values["context"], place)
    try:
        return replace(family.shape, **values)
    except TrineError as error:
        raise TrineError(f"{place}: {error}") from None


def _refuse_unsupported(described: dict[str, Any], family: Family, place: str) -> None:
    accepted_values = SWITCHED_OFF | _ALWAYS | family.fixed
    known = set(family.config_keys.values()) | set(_WINDOWS) | {"n_ctx"}
    if family.shape.position == "rotary":
        accepted_values |= _WITH_ROTARY | {"use_qk_norm": family.shape.qk_norm, "qk_norm": family.shape.qk_norm}
        known |= set(ROPE_KEYS)
    unknown = could_change_numbers(described, known | accepted_values.keys())
    if unknown:
        raise TrineError(
            f"{place}: unknown keys {unknown} could change the results, so the model is not loaded; "
            f"{how_to_ignore(unknown)}"
        )
    for key, accepted in accepted_values.items():
        if key not in _WINDOWS and not _is_accepted(described.get(key, accepted), accepted):
            raise TrineError(
                f"{place}: {key}={described[key]!r} is not supported, only {accepted!r}; {how_to_ignore([key])}"
            )
    _refuse_windows(described, family, place)


def _is_accepted(value: Any, accepted: Any) -> bool:
    """Whether `value` computes what `accepted` does; null is absent, except where it switches off what is needed."""
    if value is None:
        return accepted is not True and not isinstance(accepted, str)
    same = _SAME_FUNCTION.get(accepted, ()) if isinstance(accepted, str) else ()
    return value == accepted or value in same


def _refuse_windows(described: dict[str, Any], family: Family, place: str) -> None:
    """Refuse attention that does not see all tokens: a window shorter than the context, in any layer."""
    switch = "sliding_window" if "sliding_window" in family.fixed else "use_sliding_window"
    context, layers = (described.get(family.config_keys[name]) for name in ("context", "layers"))
    sees_all = _at_least(described.get("sliding_window"), context)
    if switch == "use_sliding_window":  # in Qwen, from layer `max_window_layers` on
        sees_all |= _at_least(described.get("max_window_layers"), layers)
    value = described.get(switch)
    if not (value is None or value is False or (sees_all and type(value) in (bool, int))):
        raise TrineError(
            f"{place}: {switch}={value!r} is not supported, only {family.fixed[switch]!r}; {how_to_ignore([switch])}"
        )
    kinds = described.get("layer_types") or []
    allowed = [_FULL_ATTENTION, "sliding_attention"] if sees_all else [_FULL_ATTENTION]
    if not isinstance(kinds, list) or any(kind not in allowed for kind in kinds):
        raise TrineError(f"{place}: layer_types={kinds!r} is not supported, only {_FULL_ATTENTION!r} everywhere")


def _at_least(value: Any, limit: Any) -> bool:
    return type(value) is int and type(limit) is int and value >= limit


def _read_values(described: dict[str, Any], family: Family, place: str) -> dict[str, Any]:
    """The fields in the family's table; absent keys have the defaults of transformers."""
    given = family.defaults | described
    values = {
        name: _checked(key, given[key], name, place)
        for name, key in family.config_keys.items()
        if given.get(key) is not None
    }
    required = _REQUIRED if family.shape.mlp == "gelu" else (*_REQUIRED, "mlp_width")
    missing = [family.config_keys[name] for name in required if name not in values]
    if missing:
        raise TrineError(f"{place}: keys {missing} are missing")
    width, heads = values["width"], values["heads"]
    if "head_dim" not in values and width % heads:
        raise TrineError(f"{place}: a width of {width} is not a multiple of {heads} heads")
    values = {"kv_heads": heads, "head_dim": width // heads, "mlp_width": 4 * width} | values
    if max(values["heads"], values["kv_heads"]) * values["head_dim"] > MAX_DIMENSION:
        raise TrineError(f"{place}: {heads} heads of {values['head_dim']} are wider than any model")
    return values


def _checked(key: str, value: Any, name: str, place: str) -> Any:
    """Return `value` if it has the type of field `name` and is in range, else raise `TrineError`."""
    kind = _FIELD_TYPES[name]
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and type(value) is int and 0 < value <= MAX_DIMENSION:
        return value
    if kind is float and type(value) in (int, float) and 0 <= value <= MAX_NUMBER:  # NaN is not
        return float(value)
    expected = {bool: "true or false", int: f"a whole number from 1 to {MAX_DIMENSION}", float: "a number"}
    raise TrineError(f"{place}: {key}={value!r:.60} is not {expected[kind]}")  # type: ignore[index]


def to_hugging_face_weights(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our parameters under Hugging Face names, in Hugging Face storage order."""
    return {name: view.contiguous() for name, view in hugging_face_views(weights, config).items()}


def hugging_face_views(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Views of our parameters, by Hugging Face name and in that order: to write into one changes the parameter."""
    result: dict[str, Tensor] = {}
    for ours, theirs, storage in _entries(config):
        if ours not in weights:
            continue
        tensor = weights[ours].T if storage == "transposed" else weights[ours]
        parts = tensor.split(_block_rows(config, storage)) if len(theirs) > 1 else (tensor,)
        result |= dict(zip(theirs, parts, strict=True))
    return result


def transposed_names(config: ModelConfig) -> set[str]:
    """The Hugging Face tensors that are stored as [in, out]."""
    return {name for _, theirs, storage in _entries(config) if storage == "transposed" for name in theirs}


def from_hugging_face_weights(weights: Mapping[str, Tensor], config: ModelConfig, place: str) -> dict[str, Tensor]:
    """Our parameters from Hugging Face tensors; raises `TrineError` naming missing or unexpected tensors."""
    return dict(each_parameter(weights, config, place))


def each_parameter(weights: Mapping[str, Tensor], config: ModelConfig, place: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (our name, parameter) one at a time, so that `weights` may read lazily from disk.

    Raises `TrineError` before the first is read, naming missing or unexpected tensors.
    """
    names, entries = full_names(weights, config), _entries(config)
    _check_names(names, {name for _, theirs, _ in entries for name in theirs}, config, place)
    return _each_parameter(weights, names, entries, place)


def _each_parameter(
    weights: Mapping[str, Tensor], names: dict[str, str], entries: list[_Entry], place: str
) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs, storage in entries:
        parts = [weights[names[name]] for name in theirs]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if ours == "embedding.weight":
            _refuse_untied_head(weights, names, tensor, entries, place)
        yield ours, tensor.T.contiguous() if storage == "transposed" else tensor


def _refuse_untied_head(
    weights: Mapping[str, Tensor], names: dict[str, str], table: Tensor, entries: list[_Entry], place: str
) -> None:
    """A tied model may store its embeddings twice; transformers unties them if the two differ."""
    untied = any(ours == "head.weight" for ours, _, _ in entries)
    if not untied and "lm_head.weight" in names and not torch.equal(weights[names["lm_head.weight"]], table):
        raise TrineError(
            f"{place}: lm_head.weight differs from the embeddings although config.json ties them; "
            "set tie_word_embeddings to false"
        )


def full_names(names: Iterable[str], config: ModelConfig) -> dict[str, str]:
    """Map the tensor names of the family's table to those in the file."""
    return dict(named_by_table(names, config))


def named_by_table(names: Iterable[str], config: ModelConfig) -> list[tuple[str, str]]:
    """(name in the family's table, name in the file) of every tensor, as `tensor_names.py` understands them."""
    return plain_names(names, family_of(config).weights["embedding.weight"][0][0])


def _check_names(names: dict[str, str], wanted: set[str], config: ModelConfig, place: str) -> None:
    """Refuse missing tensors and those that would be left over, with the names that the file has."""
    given = names.keys()
    # Ignore masks and frequencies that older versions stored, and the second copy of tied embeddings.
    left = {name for name in given - wanted if not name.endswith((".attn.bias", ".attn.masked_bias", "inv_freq"))}
    left -= {"lm_head.weight"} if config.tied_embeddings else set()
    missing = sorted(wanted - given)
    if missing:
        others = sorted(names[name] for name in left)[:5]
        there = f"; of {len(names)} in the file these are unknown: {others}" if others else ""
        raise TrineError(f"{place}: tensors {missing[:5]} are missing{there}")
    if left:
        raise TrineError(f"{place}: tensors {sorted(names[name] for name in left)[:5]} have no place in the model")


def _entries(config: ModelConfig) -> list[_Entry]:
    """(our name, Hugging Face names, storage) of every parameter of this config, for each layer."""
    rows: list[_Entry] = []
    absent = set() if config.qk_norm else {"blocks.{i}.attention.q_norm", "blocks.{i}.attention.k_norm"}
    absent |= set() if config.qkv_bias else {"blocks.{i}.attention.qkv.bias"}
    absent |= {"head.weight"} if config.tied_embeddings else set()
    for ours, (theirs, storage) in family_of(config).weights.items():
        if ours in absent:
            continue
        for layer in range(config.layers if "{i}" in ours else 1):
            rows.append((ours.format(i=layer), tuple(name.format(i=layer) for name in theirs), storage))
    return rows


def _block_rows(config: ModelConfig, storage: Storage) -> list[int]:
    if storage == "gate_up":
        return [config.mlp_width] * 2
    return [config.heads * config.head_dim] + [config.kv_heads * config.head_dim] * 2


def fused_blocks(name: str, config: ModelConfig) -> list[int] | None:
    """Row counts of the matrices fused in parameter `name`; None if it is a single matrix."""
    if name.endswith("attention.qkv.weight"):
        return _block_rows(config, "qkv")
    if name.endswith("mlp.up.weight") and config.mlp == "swiglu":
        return _block_rows(config, "gate_up")
    return None
