"""Frequencies of rotary positions (Su et al. 2021), plain or scaled, and their keys in `config.json`.

There are two forms on disk: `rope_theta` with an optional `rope_scaling`, and `rope_parameters` of transformers 5,
which contains both. Both forms are read and written. Scaling methods that depend on the config alone are supported;
any other is refused by name.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trine.model.config import ModelConfig, RopeScaling
from trine.model.config_keys import could_change_numbers, how_to_ignore
from trine.runtime.errors import TrineError

MAX_NUMBER = 1e30  # of any setting; an integer of JSON may be too large for a float
ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
_CPU = torch.device("cpu")
# RopeScaling field -> key of `rope_scaling` and `rope_parameters`, for every kind.
_SCALING_KEYS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_frequency_factor": "low_freq_factor",
        "high_frequency_factor": "high_freq_factor",
        "original_context": "original_max_position_embeddings",
    },
}


@lru_cache(maxsize=16)
def rotary_frequencies(config: ModelConfig, device: torch.device = _CPU) -> Tensor:
    """Radians per position of each pair of dimensions, [head_dim / 2] fp32, with the scaling of `config`.

    Computed on the CPU with the order of operations of transformers, so that the result is bitwise the same on every
    device. The result is cached: do not modify it.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=_CPU) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling is not None:
        frequencies = _llama3(frequencies, scaling)
    return frequencies.to(device)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    low, high, context = scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_context
    wavelengths = 2 * math.pi / frequencies
    share_kept = (context / wavelengths - low) / (high - low)
    blended = (1 - share_kept) * frequencies / scaling.factor + share_kept * frequencies
    scaled = torch.where(wavelengths > context / low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < context / high, frequencies, scaled)


def rope_to_json(config: ModelConfig) -> dict[str, Any]:
    """The keys of `config.json` in both forms; `rope_scaling` only if there is scaling."""
    scaling = config.rope_scaling
    if scaling is None:
        described: dict[str, Any] = {"rope_type": "default"}
    else:
        keys = _SCALING_KEYS[scaling.kind]
        described = {"rope_type": scaling.kind} | {key: getattr(scaling, field) for field, key in keys.items()}
    both = {"rope_theta": config.rope_theta, "rope_parameters": described | {"rope_theta": config.rope_theta}}
    return both if scaling is None else both | {"rope_scaling": described}


def rope_from_json(described: dict[str, Any], context: int, place: str) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a ModelConfig, with the precedence of transformers 5.

    `rope_scaling` takes precedence over `rope_parameters`, and a `rope_theta` inside either over the outer one.
    `context`, the model's, is the default of the original context. Raises `TrineError` naming an unsupported key.
    """
    rope = described.get("rope_scaling") or described.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise TrineError(f"{place}: rope scaling is {rope!r}, not a JSON object")
    theta = _number(rope.get("rope_theta", described.get("rope_theta", 10000.0)), "rope_theta", place)
    kind = next((rope[key] for key in ("rope_type", "type") if rope.get(key) is not None), "default")
    if not isinstance(kind, str) or kind not in _SCALING_KEYS:
        raise TrineError(f"{place}: rope_type={kind!r} is not supported, only {', '.join(_SCALING_KEYS)}")
    keys = _SCALING_KEYS[kind]
    _refuse_other_keys(rope, set(keys.values()), kind, place)
    if kind == "default":
        return {"rope_theta": theta}
    given = {"original_max_position_embeddings": context} | rope
    missing = [key for key in keys.values() if given.get(key) is None]
    if missing:
        raise TrineError(f"{place}: rope_type={kind!r} needs {missing}")
    values: dict[str, Any] = {field: _number(given[key], key, place) for field, key in keys.items()}
    if "original_context" in values:
        values["original_context"] = int(values["original_context"])
    try:
        return {"rope_theta": theta, "rope_scaling": RopeScaling(kind, **values)}  # type: ignore[arg-type]
    except TrineError as error:
        raise TrineError(f"{place}: {error}") from None


def _refuse_other_keys(rope: dict[str, Any], known: set[str], kind: str, place: str) -> None:
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        raise TrineError(f"{place}: rope's partial_rotary_factor={rope['partial_rotary_factor']} is not supported")
    known |= {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    unknown = could_change_numbers(rope, known)
    if unknown:
        raise TrineError(f"{place}: unknown rope keys {unknown} beside rope_type={kind!r}; {how_to_ignore(unknown)}")


def _number(value: Any, key: str, place: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= MAX_NUMBER:  # as an int it may be too large for a float
        raise TrineError(f"{place}: {key}={value!r:.60} is not a positive number")
    return float(value)
