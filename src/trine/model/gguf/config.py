"""Conversion between GGUF metadata and the contents of `config.json`.

An unknown key under the architecture's prefix that could change the results is refused by name (`config_keys.py` has
the rule; in llama.cpp 0 too stands for what is switched off); `general.*` and other prefixes describe the origin of the
file and are ignored. A 32-bit float becomes the shortest decimal with the same value, which is what the author of the
file had (1e-05, not 9.999999747378752e-06).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.model.config_keys import harmless_name, how_to_ignore, switched_off
from trine.model.gguf.container import Container
from trine.model.gguf.rope import read_rope, rope_settings
from trine.model.gguf.tables import ARCHITECTURES, Architecture

# Keys that some converters write, with the only value that has no effect.
_NEUTRAL: dict[str, Any] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "attention.sliding_window": 0,
    "rope.scaling.attn_factor": 1.0,
    "tensor_data_layout": "Meta AI original pth",
}
_REPEATED = ("vocab_size", "attention.value_length", "rope.dimension_count")
_ROPE = (
    "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)  # fmt: skip


def architecture_of(container: Container) -> Architecture:
    """The table of the file's architecture; raises `TrineError` if it is not supported, or not a complete model."""
    name = container.metadata.get("general.architecture")
    kind = container.metadata.get("general.type", "model")
    if kind != "model":
        container.refuse("general.type", f"is {kind!r}; only complete models are supported")
    if name not in list(ARCHITECTURES):  # a list, because in a malicious file the name may be unhashable
        container.refuse("general.architecture", f"is {name!r}; Trine opens {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def read_config(container: Container) -> dict[str, Any]:
    """The `config.json` of the model in `container`."""
    table, name = architecture_of(container), container.metadata["general.architecture"]
    settings = _settings(container, name)
    _refuse_unknown(container, name, table, settings)
    config = {ours: settings[theirs] for theirs, ours in table.keys.items() if theirs in settings}
    if "token_embd.weight" not in container.tensors:
        container.refuse("tensor token_embd.weight", "is missing")
    if config[table.keys["block_count"]] > len(container.tensors):
        container.refuse(f"{name}.block_count", f"is {settings['block_count']}, more than the file has tensors")
    config["vocab_size"] = container.tensors["token_embd.weight"].shape[0]
    config["tie_word_embeddings"] = "output.weight" not in container.tensors
    if "rope.freq_base" in table.keys:
        config |= _rotary(container, name, settings, config)
    _check_repeated(container, name, settings, config)
    return {"model_type": name} | config


def _settings(container: Container, name: str) -> dict[str, Any]:
    prefix = f"{name}."
    own = {key: value for key, value in container.metadata.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): _decimal(value) for key, value in own.items()}


def _decimal(value: Any) -> Any:
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _refuse_unknown(container: Container, name: str, table: Architecture, settings: dict[str, Any]) -> None:
    for key in table.required:
        if key not in settings:
            container.refuse(f"{name}.{key}", "is missing")
    rope = _ROPE if "rope.freq_base" in table.keys else ()
    for key, value in settings.items():
        if key in table.keys:
            whole = not key.endswith(("epsilon", "freq_base"))
            if type(value) is not (int if whole else float) or not 0 < value < math.inf:
                container.refuse(f"{name}.{key}", f"is {value!r}, not a positive {'whole ' if whole else ''}number")
        elif key == "attention.sliding_window" and type(value) is int and value >= settings["context_length"]:
            continue  # a window as long as the context hides nothing
        elif key in _NEUTRAL and value != _NEUTRAL[key]:
            way_out = how_to_ignore([f"{name}.{key}"])
            container.refuse(
                f"{name}.{key}", f"is {value!r}, which Trine does not support, only {_NEUTRAL[key]!r}; {way_out}"
            )
        elif key not in (*_NEUTRAL, *_REPEATED, *rope) and not (
            value == 0 or switched_off(value) or harmless_name(key)
        ):
            way_out = how_to_ignore([f"{name}.{key}"])
            container.refuse(
                f"{name}.{key}",
                f"is unknown and could change the results, so the file is not loaded; {way_out}",
            )


def _rotary(container: Container, name: str, settings: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    config.setdefault("rope_theta", 10000.0)
    return read_rope(container, name, settings, config["head_dim"], config["rope_theta"])


def _check_repeated(container: Container, name: str, settings: dict[str, Any], config: dict[str, Any]) -> None:
    """Check that redundant keys agree with the rest of the file."""
    width = config.get("head_dim")
    if width is None:
        width = config["n_embd"] // config["n_head"]
    for key, expected in zip(_REPEATED, (config["vocab_size"], width, width), strict=True):
        if settings.get(key, expected) != expected:
            container.refuse(f"{name}.{key}", f"is {settings[key]!r}, but the rest of the file says {expected}")


def config_settings(config: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """GGUF's keys for a `config.json`, without the architecture's prefix, and rope factors if there are any."""
    table = ARCHITECTURES[config["model_type"]]
    settings = {theirs: config[ours] for theirs, ours in table.keys.items() if config.get(ours) is not None}
    settings["vocab_size"] = config["vocab_size"]
    if "rope.freq_base" not in table.keys:
        return settings, None
    settings |= {"rope.dimension_count": config["head_dim"], "attention.value_length": config["head_dim"]}
    scaling, factors = rope_settings(config)
    return settings | scaling, factors
