"""LoRA adapters in the format of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

PEFT loads adapters that Trine saves, and Trine loads those that PEFT saves. A key of adapter_config.json that is not
supported must be disabled: whatever could change the results is refused by name. No memory is allocated before the
config and the header of the weights agree on every shape.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from trine.model.families import family_of
from trine.model.lora import (
    ALL_TARGETS,
    LoraSettings,
    add_lora,
    has_lora,
    linear_maps,
    lora_layers,
    short_name,
    target_names,
)
from trine.model.safetensors_header import TensorPlace, read_header
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.runtime.files import write_json
from trine.runtime.json_object import read_json_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_NUMBER = 2**31
_READ = ("peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "init_lora_weights")
# Origin, training settings, and options of features that are refused when enabled. `fan_in_fan_out` describes how the
# base stores its weight; the adapter's own matrices are stored the same way either way.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
# Other initialisations (pissa, olora, corda, loftq, ...) change the base weights, and the adapter needs those.
_BASE_PRESERVING_INITS = (True, False, "gaussian", "orthogonal", "eva")


def save_adapter(model: Transformer, folder: Path, *, base: str | None = None) -> None:
    """Save the adapters of `model` into an existing `folder`; `base` names the model they were trained on.

    Example::

        add_lora(model, LoraSettings(rank=8, alpha=16), seed=0)
        ...  # train
        save_adapter(model, Path("adapter"), base="runs/chat/model")
    """
    if not has_lora(model):
        raise TrineError(f"cannot save adapters to {folder}: the model has no LoRA adapters")
    settings = next(iter(lora_layers(model).values())).settings
    storages = {storage for _, storage in family_of(model.config).weights.values()}
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "use_rslora": settings.rank_stabilized,
        "target_modules": list(target_names(model, settings.targets)),
        "fan_in_fan_out": "transposed" in storages,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(folder / CONFIG, described)
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in _parameters(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: Transformer, folder: Path) -> None:
    """Freeze `model` and add the adapters in `folder`, in place.

    Example::

        model = load_model(Path("base"), torch.float32, torch.device("cpu"))
        load_adapter(model, Path("adapter"))
        merge_lora(model)  # optional: a plain model again

    Raises `TrineError` naming an unsupported setting, or a tensor that does not fit the model.
    """
    folder = Path(folder)
    settings = _settings(read_json_object(folder / CONFIG), str(folder / CONFIG))
    weights = read_header(folder / WEIGHTS)
    _check_tensors(weights, _shapes(model, settings), folder / WEIGHTS)
    add_lora(model, settings, seed=0)
    for name, parameter in _parameters(model).items():
        parameter.data.copy_(weights[name].read())


def _shapes(model: Transformer, settings: LoraSettings) -> dict[str, tuple[int, int]]:
    """The shape of every tensor by PEFT's name, found on a meta-device copy with rank 1."""
    with torch.device("meta"):
        twin = Transformer(model.config, model.compute_dtype)
    add_lora(twin, replace(settings, rank=1), seed=0)
    rank = settings.rank
    return {
        name: (rank, parameter.shape[1]) if ".lora_A." in name else (parameter.shape[0], rank)
        for name, parameter in _parameters(twin).items()
    }


def _check_tensors(weights: dict[str, TensorPlace], shapes: dict[str, tuple[int, int]], path: Path) -> None:
    missing, left = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or left:
        raise TrineError(f"{path}: tensors {missing} are missing and {left} are unexpected")
    for name, place in weights.items():
        place.require_floats()
        if place.shape != shapes[name]:
            raise TrineError(f"{path}: {name} has shape {place.shape}, model and {CONFIG} say {shapes[name]}")


def _settings(described: dict[str, Any], place: str) -> LoraSettings:
    if described.get("peft_type") != "LORA":
        raise TrineError(f"{place}: peft_type={described.get('peft_type')!r}; only 'LORA' is supported")
    missing = [key for key in ("r", "lora_alpha", "target_modules") if described.get(key) is None]
    if missing:
        raise TrineError(f"{place}: keys {missing} are missing")
    for key, value in described.items():
        if key not in _READ and key not in _HARMLESS and value and value != "none":
            raise TrineError(f"{place}: {key}={value!r} could change the results and is not supported")
    _check_values(described, place)
    start = described.get("init_lora_weights", True)
    if start not in _BASE_PRESERVING_INITS:
        raise TrineError(
            f"{place}: init_lora_weights={start!r} changes the base weights; convert the adapter to plain "
            "LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )
    targets = _targets(described["target_modules"], place)
    return LoraSettings(described["r"], described["lora_alpha"], targets, bool(described.get("use_rslora")))


def _check_values(described: dict[str, Any], place: str) -> None:
    rank, alpha, stabilized = described["r"], described["lora_alpha"], described.get("use_rslora")
    if type(rank) is not int or not 1 <= rank <= MAX_NUMBER:
        raise TrineError(f"{place}: r={rank!r} must be a positive integer")
    if type(alpha) not in (int, float) or not abs(alpha) <= MAX_NUMBER:  # NaN is not <= either
        raise TrineError(f"{place}: lora_alpha={alpha!r} must be a finite number")
    if stabilized not in (None, True, False):
        raise TrineError(f"{place}: use_rslora={stabilized!r} must be true or false")


def _targets(named: Any, place: str) -> tuple[str, ...]:
    if named == "all-linear":
        return ALL_TARGETS
    if isinstance(named, str):
        raise TrineError(f"{place}: target_modules={named!r} is a pattern; give a list of module names")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise TrineError(f"{place}: target_modules={named!r} must be a list of module names")
    return tuple(named)


def _parameters(model: Transformer) -> dict[str, nn.Parameter]:
    """Every adapter parameter by PEFT's name."""
    layers = lora_layers(model)
    return {
        f"base_model.model.{theirs}.{kind}.weight": getattr(layers[ours], kind)[short_name(theirs)]
        for ours, modules in linear_maps(model).items()
        if ours in layers
        for theirs in modules
        if short_name(theirs) in layers[ours].lora_A
        for kind in ("lora_A", "lora_B")
    }
