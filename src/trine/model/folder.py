"""Models as folders in Hugging Face form: config.json, safetensors, generation_config.json; no pickles.

Language models are saved as `...ForCausalLM`, reward models and critics as `...ForSequenceClassification` with one
label: the score is the logit plus `trine.reward_offset` of config.json, `trine.closed` says how cut answers are read,
and `trine.form` whether conversations or plain text are. In memory weights are always fp32. No memory is allocated
before config.json and the headers of the weight files agree on every shape.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from trine.model.classifier import TaskModel, TaskSettings, TaskTokens
from trine.model.config import ModelConfig
from trine.model.families import (
    each_parameter,
    from_hugging_face_config,
    full_names,
    named_by_table,
    to_hugging_face_config,
    to_hugging_face_weights,
)
from trine.model.generation_config import GenerationDefaults, write_generation_defaults
from trine.model.heads import ScoreModel
from trine.model.lora import plain_weights
from trine.model.rope import MAX_NUMBER
from trine.model.safetensors_header import TensorPlace
from trine.model.transformer import Transformer
from trine.model.weight_files import MAX_SHARD, StoredDtype, WeightFiles, open_weights, write_weights
from trine.records import Closing, Form, Side, Task
from trine.runtime.errors import TrineError
from trine.runtime.files import write_json
from trine.runtime.json_object import read_json_object

SCORE_WEIGHT = "score.weight"


def save_model(
    model: Transformer,
    folder: Path,
    *,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
    bos_token_id: int | None = None,
    dtype: StoredDtype = "float32",
    max_shard_bytes: int = MAX_SHARD,
) -> None:
    """Save a language model into an existing `folder`; if either token is given, also generation_config.json.

    LoRA adapters are merged into the saved weights. Only `dtype` float32 is lossless. Files larger than
    `max_shard_bytes` are split into shards with an index.
    """
    described = to_hugging_face_config(model.config) | _token_keys(eos_token_id, pad_token_id, dtype)
    described["bos_token_id"] = bos_token_id
    write_json(folder / "config.json", described)
    write_weights(folder, to_hugging_face_weights(_on_cpu(model), model.config), dtype, max_shard_bytes)
    if eos_token_id is not None or pad_token_id is not None:
        ends = eos_token_id if isinstance(eos_token_id, list) else [] if eos_token_id is None else [eos_token_id]
        write_generation_defaults(folder, GenerationDefaults(tuple(ends), pad_token_id=pad_token_id))


def save_score_model(model: ScoreModel, folder: Path, *, pad_token_id: int) -> None:
    """Save a reward model or critic into an existing `folder` as a sequence classifier with one label."""
    ours = {
        "reward_offset": model.offset, "closed": model.closed, "form": model.form, "max_tokens": model.max_tokens,
        "truncation_side": model.truncation_side, "end_token": model.end_token,
    }  # fmt: skip
    _save_classifier(model.trunk, model.head.weight, ("score",), folder, pad_token_id, ours)


def save_task_model(model: TaskModel, folder: Path, *, pad_token_id: int) -> None:
    """Save a model of one of GPT-1's tasks into an existing `folder` as a sequence classifier.

    `transformers` reads the extract token as the last of a text. Where a task has several readings, its logits are the
    sum over both orders (similar), or stand side by side (choose), since the head is linear without bias.
    """
    settings = model.settings
    ours = {"task": settings.task, "tokens": asdict(settings.tokens), "closed": "end"}
    _save_classifier(model.trunk, model.classifier.weight, settings.labels, folder, pad_token_id, ours)


def _save_classifier(
    trunk: Transformer, head: Tensor, labels: Sequence[str], folder: Path, pad_token_id: int, ours: dict[str, Any]
) -> None:
    config = trunk.config
    described = to_hugging_face_config(config) | _token_keys(None, pad_token_id, "float32")
    causal = str(described["architectures"][0])
    family = causal.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    described |= {
        "architectures": [f"{family}ForSequenceClassification"],
        "num_labels": len(labels),
        "id2label": {str(place): label for place, label in enumerate(labels)},
        "label2id": {label: place for place, label in enumerate(labels)},
        "trine": ours,
    }
    weights = to_hugging_face_weights(_on_cpu(trunk), config)
    weights.pop("lm_head.weight", None)
    write_json(folder / "config.json", described)
    write_weights(folder, weights | {SCORE_WEIGHT: head.detach().cpu().float()}, "float32", MAX_SHARD)


def load_model(
    folder: Path, compute_dtype: torch.dtype, device: torch.device, *, ignored: Collection[str] = ()
) -> Transformer:
    """Load the language model in `folder`: fp32 weights, products in `compute_dtype`.

    Keys `ignored` of config.json are treated as absent.

    Example::

        model = load_model(Path("runs/base/model"), torch.float32, torch.device("cpu"))
    """
    config, described, weights = _open(folder, ignored)
    if SCORE_WEIGHT in weights:
        what = (
            "a classifier"
            if isinstance(described.get("trine"), dict) and "task" in described["trine"]
            else "a reward model"
        )
        raise TrineError(f"{folder} holds {what} ({described.get('architectures')}), not a language model")
    return _fill(config, weights, compute_dtype, device, str(folder))


def load_score_model(
    folder: Path,
    compute_dtype: torch.dtype,
    device: torch.device,
    *,
    ignored: Collection[str] = (),
    positive_logit: bool = False,
) -> ScoreModel:
    """Load the reward model or critic in `folder`.

    Of two labels the score is the log-odds of the second; with `positive_logit` its logit, which is another unit.
    """
    config, described, weights = _open(folder, ignored)
    if SCORE_WEIGHT not in weights:
        raise TrineError(f"{folder} holds no reward model: tensor {SCORE_WEIGHT} is missing")
    trunk, head = _trunk_and_head(config, weights, compute_dtype, device, folder)
    if len(head) > 2:
        raise TrineError(
            f"{folder}: {SCORE_WEIGHT} has shape {tuple(head.shape)}: it tells {len(head)} labels apart; a reward "
            "model has one label, or two"
        )
    model = ScoreModel(trunk)
    if positive_logit and len(head) == 1:
        raise TrineError(f"{folder} has one label, whose logit is the score; positive_logit is of two labels")
    # The log-odds of the second of two labels are the difference of their logits.
    model.head.weight.data.copy_(head if len(head) == 1 else head[1:] if positive_logit else head[1:] - head[:1])
    model.offset = _reward_offset(described, folder)
    model.closed, model.form = _closing(described, folder), _form(described, folder)
    model.max_tokens, model.truncation_side, model.end_token = _limits(described, config, folder)
    return model.to(device)


def load_task_model(folder: Path, compute_dtype: torch.dtype, device: torch.device) -> TaskModel:
    """Load the model of one of GPT-1's tasks in `folder`."""
    config, _, weights = _open(folder, ())
    settings = read_task(folder)
    if settings is None or SCORE_WEIGHT not in weights:
        raise TrineError(f"{folder} holds no model of `trine finetune --task`")
    trunk, head = _trunk_and_head(config, weights, compute_dtype, device, folder)
    if len(head) != len(settings.labels):
        raise TrineError(f"{folder}: {SCORE_WEIGHT} has {len(head)} rows, config.json {len(settings.labels)} labels")
    model = TaskModel(trunk, settings)
    model.classifier.weight.data.copy_(head)
    return model.to(device)


def read_task(folder: Path) -> TaskSettings | None:
    """What the model in `folder` was trained for by `trine finetune --task`; None for any other."""
    path = Path(folder) / "config.json"
    described = read_json_object(path)
    ours = described.get("trine")
    if not isinstance(ours, dict) or "task" not in ours:
        return None
    labels, tokens = described.get("id2label"), ours.get("tokens")
    try:
        if ours["task"] not in get_args(Task) or not isinstance(labels, dict) or not isinstance(tokens, dict):
            raise TypeError
        names = tuple(str(labels[str(place)]) for place in range(len(labels)))
        return TaskSettings(ours["task"], names, TaskTokens(**tokens))
    except (TypeError, KeyError):
        raise TrineError(
            f"{path}: trine={ours!r:.120} and id2label={labels!r:.80} must name a task, its tokens and its labels"
        ) from None


def _trunk_and_head(
    config: ModelConfig, weights: WeightFiles, compute_dtype: torch.dtype, device: torch.device, folder: Path
) -> tuple[Transformer, Tensor]:
    """The Transformer of a sequence classifier and its head [C, D]."""
    score = weights.places.pop(SCORE_WEIGHT)
    if len(score.shape) != 2 or score.shape[1] != config.width or not score.shape[0]:
        raise TrineError(
            f"{score.path}: {SCORE_WEIGHT} has shape {score.shape}; for a model of width {config.width} it "
            f"must be {(1, config.width)}"
        )
    if not config.tied_embeddings:  # a classifier has no output embeddings; those of the trunk are not used
        table = next((name for name in weights if "embed_tokens" in name or "wte" in name), None)
        if table is not None:
            weights.places["lm_head.weight"] = weights.places[table]
    trunk = _fill(config, weights, compute_dtype, device, str(folder))
    head = score.read()
    refuse_non_finite(SCORE_WEIGHT, head, str(folder))
    return trunk, head


def read_config(folder: Path) -> ModelConfig:
    """The config of the model in `folder`, without its weights."""
    path = Path(folder) / "config.json"
    return from_hugging_face_config(read_json_object(path), str(path))


def _reward_offset(described: dict[str, Any], folder: Path) -> float:
    ours = described.get("trine", {})
    offset = ours.get("reward_offset", 0.0) if isinstance(ours, dict) else None
    if type(offset) not in (int, float) or not abs(offset or 0.0) <= MAX_NUMBER:  # NaN is not <= either
        raise TrineError(f"{folder}/config.json: trine={ours!r} must be an object with a number as reward_offset")
    return float(offset or 0.0)


def _closing(described: dict[str, Any], folder: Path) -> Closing:
    """As config.json says. Trine's own reward models that do not say were made for code, and read by lines."""
    closed = described["trine"].get("closed", "line") if "trine" in described else "end"
    if closed not in get_args(Closing):
        raise TrineError(f"{folder}/config.json: trine.closed={closed!r} must be one of {', '.join(get_args(Closing))}")
    return cast(Closing, closed)


def _form(described: dict[str, Any], folder: Path) -> Form:
    form = described.get("trine", {}).get("form", "chat")  # what there was before there was a choice
    if form not in get_args(Form):
        raise TrineError(f"{folder}/config.json: trine.form={form!r} must be one of {', '.join(get_args(Form))}")
    return cast(Form, form)


def _limits(described: dict[str, Any], config: ModelConfig, folder: Path) -> tuple[int | None, Side, str | None]:
    """The longest text that is read, the side that a longer one loses, and the name of the end token."""
    ours = described.get("trine", {})
    longest, side, end = ours.get("max_tokens"), ours.get("truncation_side", "right"), ours.get("end_token")
    fits = longest is None or (type(longest) is int and 0 < longest <= config.context)
    if not fits or side not in get_args(Side) or not isinstance(end, str | None):
        raise TrineError(
            f"{folder}/config.json: trine.max_tokens={longest!r} must be a number up to the context of "
            f"{config.context}, truncation_side={side!r} right or left, end_token={end!r} a name"
        )
    return longest, cast(Side, side), end


def _token_keys(eos_token_id: int | list[int] | None, pad_token_id: int | None, dtype: StoredDtype) -> dict[str, Any]:
    return {"bos_token_id": None, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id, "dtype": dtype}


def _on_cpu(model: Transformer) -> dict[str, Tensor]:
    """The parameters by name, in fp32, LoRA adapters merged."""
    return {name: weight.cpu().float() for name, weight in plain_weights(model).items()}


def _open(folder: Path, ignored: Collection[str]) -> tuple[ModelConfig, dict[str, Any], WeightFiles]:
    path = Path(folder) / "config.json"
    described = read_json_object(path, ignored)
    config = from_hugging_face_config(described, str(path))
    weights = _with_plain_names(open_weights(folder), config)
    if config.layers > len(weights):
        raise TrineError(f"{path} describes {config.layers} layers; the weight files hold {len(weights)} tensors")
    return config, described, weights


def _with_plain_names(weights: WeightFiles, config: ModelConfig) -> WeightFiles:
    """The tensors by the names of their family's table, whatever wrapped the model when it was saved."""
    plain: dict[str, TensorPlace] = {}
    for name, place in named_by_table(weights, config):
        if name in plain:
            names = f"{plain[name].name} and {weights.places[place].name}"
            raise TrineError(f"{weights.places[place].path}: tensors {names} are one and the same")
        plain[name] = weights.places[place]
    return WeightFiles(plain)


def has_score_head(folder: Path) -> bool:
    """Whether the model in `folder` is a reward model or critic."""
    return any(f".{name}".endswith(f".{SCORE_WEIGHT}") for name in open_weights(folder))


def _fill(
    config: ModelConfig, weights: WeightFiles, compute_dtype: torch.dtype, device: torch.device, place: str
) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config, compute_dtype)
    _check_tensors(weights, to_hugging_face_weights(dict(model.named_parameters()), config), config)
    parameters = each_parameter(weights, config, place)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, tensor in parameters:
            refuse_non_finite(name, tensor, place)
            model.get_parameter(name).copy_(tensor)
    return model


def refuse_non_finite(name: str, tensor: Tensor, place: str) -> None:
    """Refuse NaN and infinity: a model that has them writes noise. The sum is one pass, and finite only without."""
    if not tensor.sum().isfinite() and not tensor.isfinite().all():
        wrong = int((~tensor.isfinite()).sum())
        raise TrineError(
            f"{place}: {name} holds {wrong} values that are NaN or infinite, of {tensor.numel()}; the training that "
            "wrote it diverged, or the file is damaged: take an earlier checkpoint, or download it again"
        )


def _check_tensors(weights: WeightFiles, expected: dict[str, Tensor], config: ModelConfig) -> None:
    """Check shapes and dtypes of the tensors that are present; `each_parameter` reports missing ones."""
    for name, written in full_names(weights, config).items():
        if name not in expected:
            continue
        place, shape = weights.places[written], tuple(expected[name].shape)
        place.require_floats()
        if place.shape != shape:
            raise TrineError(f"{place.path}: tensor {place.name} has shape {place.shape}, config.json says {shape}")
