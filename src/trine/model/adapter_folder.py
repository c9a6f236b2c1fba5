"""LoRA adapters in the format of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

PEFT loads adapters that Trine saves; `adapter_merging.py` opens those that PEFT and Trine saved.
"""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from trine.model.adapter_settings import CONFIG, WEIGHTS
from trine.model.families import family_of
from trine.model.lora import has_lora, linear_maps, lora_layers, short_name, target_names
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.runtime.files import write_json


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
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in peft_parameters(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def peft_parameters(model: Transformer) -> dict[str, nn.Parameter]:
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
