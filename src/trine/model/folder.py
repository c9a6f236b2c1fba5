"""A model as a folder in Hugging Face form: config.json, model.safetensors (fp32), nothing pickled.

Language models are written as `...ForCausalLM`, reward models and critics as `...ForSequenceClassification` with
one label: logit + `trine.reward_offset` of config.json is Trine's score.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trine.model.config import ModelConfig
from trine.model.families import (
    from_hugging_face_config,
    from_hugging_face_weights,
    to_hugging_face_config,
    to_hugging_face_weights,
)
from trine.model.heads import ScoreModel
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json

SCORE_WEIGHT = "score.weight"


def save_model(
    model: Transformer, folder: Path, *, eos_token_id: int | list[int] | None = None, pad_token_id: int | None = None
) -> None:
    """Write config.json and model.safetensors into an existing `folder`."""
    described = to_hugging_face_config(model.config) | _token_keys(eos_token_id, pad_token_id)
    _write(folder, described, to_hugging_face_weights(_on_cpu(model), model.config))


def save_score_model(model: ScoreModel, folder: Path, *, pad_token_id: int) -> None:
    """Write a reward model or critic as a one-label sequence classifier."""
    config = model.trunk.config
    described = to_hugging_face_config(config) | _token_keys(None, pad_token_id)
    described["architectures"] = [described["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")]
    described["architectures"][0] = described["architectures"][0].replace(
        "GPT2LMHeadModel", "GPT2ForSequenceClassification"
    )
    described |= {
        "num_labels": 1,
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "trine": {"reward_offset": model.offset},
    }
    weights = to_hugging_face_weights(_on_cpu(model.trunk), config)
    weights.pop("lm_head.weight", None)
    _write(folder, described, weights | {SCORE_WEIGHT: model.head.weight.detach().cpu().float()})


def load_model(folder: Path, compute_dtype: torch.dtype, device: torch.device) -> Transformer:
    """The language model in `folder`, fp32 weights, products in `compute_dtype`."""
    config, described, weights = _read(folder)
    if SCORE_WEIGHT in weights:
        raise TrineError(f"{folder} holds a reward model ({described.get('architectures')}), not a language model")
    return _fill(config, weights, compute_dtype, device, str(folder))


def load_score_model(folder: Path, compute_dtype: torch.dtype, device: torch.device) -> ScoreModel:
    """The reward model or critic in `folder`."""
    config, described, weights = _read(folder)
    if SCORE_WEIGHT not in weights:
        raise TrineError(f"{folder} holds no reward model: there is no tensor {SCORE_WEIGHT}")
    score = weights.pop(SCORE_WEIGHT)
    if not config.tied_embeddings:  # a classifier has no output table; the trunk's is never read
        table = next(name for name in weights if "embed_tokens" in name or "wte" in name)
        weights["lm_head.weight"] = weights[table].clone()
    model = ScoreModel(_fill(config, weights, compute_dtype, device, str(folder)))
    model.head.weight.data.copy_(score)
    model.offset = float(described.get("trine", {}).get("reward_offset", 0.0))
    return model.to(device)


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in `folder`, without its weights."""
    path = Path(folder) / "config.json"
    return from_hugging_face_config(read_json(path), str(path))


def _token_keys(eos_token_id: int | list[int] | None, pad_token_id: int | None) -> dict[str, Any]:
    keys = {"bos_token_id": None, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
    return {**keys, "dtype": "float32"}


def _on_cpu(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu().float() for name, parameter in model.named_parameters()}


def _write(folder: Path, described: dict[str, Any], weights: dict[str, Tensor]) -> None:
    write_json(folder / "config.json", described)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _read(folder: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]:
    folder = Path(folder)
    described = read_json(folder / "config.json")
    config = from_hugging_face_config(described, str(folder / "config.json"))
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise TrineError(f"{path} is damaged: {error}; make it again or take another copy") from None
    return config, described, {name: tensor.float() for name, tensor in weights.items()}


def _fill(
    config: ModelConfig, weights: dict[str, Tensor], compute_dtype: torch.dtype, device: torch.device, place: str
) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config, compute_dtype)
    ours = from_hugging_face_weights(weights, config, place)
    for name, parameter in model.named_parameters():
        if ours[name].shape != parameter.shape:
            raise TrineError(
                f"{place}: tensor for {name} has shape {tuple(ours[name].shape)}, config.json says "
                f"{tuple(parameter.shape)}"
            )
    model.load_state_dict(ours, assign=True)
    return model.requires_grad_(True).to(device)
