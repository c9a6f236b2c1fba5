"""Models and tokenizers for stages and commands, from whatever name the user gives (`locating.py`)."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trine.catalog.locating import ModelPlace, place_model
from trine.config.base import HardwareConfig
from trine.model.adapter_merging import merge_adapter
from trine.model.classifier import TaskModel
from trine.model.families import from_hugging_face_config
from trine.model.folder import (
    SCORE_WEIGHT,
    has_score_head,
    load_model,
    load_score_model,
    load_task_model,
    read_config,
    read_task,
)
from trine.model.generation_config import GenerationDefaults, read_generation_defaults
from trine.model.gguf.reading import read_gguf, read_gguf_tokenizer
from trine.model.heads import ScoreModel
from trine.model.transformer import Transformer
from trine.model.weight_files import StoredDtype, open_weights
from trine.runtime.device import Hardware, choose_hardware
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer

_DTYPES: dict[str, StoredDtype] = {"BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class OpenedModel:
    """A language model with what its makers say about generating with it.

    `dtype` is what they were stored in, or fp32 for what was quantised or has an adapter in it; in memory weights are
    always fp32.
    """

    model: Transformer
    tokenizer: Tokenizer
    generation: GenerationDefaults
    dtype: StoredDtype


def open_hardware(config: HardwareConfig) -> Hardware:
    return choose_hardware(config.device, config.precision, config.threads)


def open_language_model(
    name: Path | str, hardware: Hardware, *, adapter: str | None = None, ignored: Collection[str] = ()
) -> OpenedModel:
    """The language model called `name`: a run, model or adapter folder, a .gguf file, `smollm2`, or owner/name of the
    hub; with the adapter called `adapter` merged in.

    Keys `ignored` of its files' metadata are treated as absent (model/config_keys.py).
    """
    place = place_model(name, adapter)
    opened = _base(place.base, hardware, ignored)
    model = opened.model
    for folder in place.adapters:
        merged = merge_adapter(model, folder, ignored=ignored)
        if merged.head is not None:
            raise TrineError(f"{folder} is the adapter of a reward model ({SCORE_WEIGHT}), not of a language model")
        model = merged.model
    if not place.adapters:
        return opened
    tokenizer, generation = _beside(place, opened.tokenizer), opened.generation
    for folder in place.adapters:
        if (folder / "generation_config.json").exists():
            generation = read_generation_defaults(folder)
    return OpenedModel(model, tokenizer, generation, "float32")


def _base(place: Path, hardware: Hardware, ignored: Collection[str]) -> OpenedModel:
    if place.is_file():
        parts = read_gguf(place, ignored)
        model = parts.model(hardware.compute_dtype, hardware.device)
        return OpenedModel(model, Tokenizer(parts.tokenizer), parts.generation, parts.dtype)
    model = load_model(place, hardware.compute_dtype, hardware.device, ignored=ignored)
    return OpenedModel(model, Tokenizer.load(place), read_generation_defaults(place), _stored_dtype(place))


def _beside(place: ModelPlace, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer that the last adapter brings, or the base's: an adapter may have tokens of its own."""
    for folder in reversed(place.adapters):
        if (folder / "tokenizer.json").exists():
            return Tokenizer.load(folder)
    return tokenizer


def open_model(name: Path | str, hardware: Hardware, adapter: str | None = None) -> tuple[Transformer, Tokenizer]:
    """A language model and its tokenizer."""
    opened = open_language_model(name, hardware, adapter=adapter)
    return opened.model, opened.tokenizer


def open_tokenizer(name: Path | str, adapter: str | None = None) -> tuple[Tokenizer, int]:
    """The tokenizer of the language model called `name`, and the model's context; no weights are read.

    Example::

        tokenizer, context = open_tokenizer("runs/base")
    """
    place = place_model(name, adapter)
    if place.base.is_file():
        files, described = read_gguf_tokenizer(place.base)
        tokenizer, shape = Tokenizer(files), from_hugging_face_config(described, str(place.base))
    else:
        tokenizer, shape = Tokenizer.load(place.base), read_config(place.base)
    return _beside(place, tokenizer), shape.context


def open_score_model(
    name: Path | str, hardware: Hardware, *, ignored: Collection[str] = (), positive_logit: bool = False
) -> tuple[ScoreModel, Tokenizer]:
    """A reward model and its tokenizer; `TrineError` where `name` is no folder that holds one.

    `positive_logit`: of two labels the second one's logit rather than its log-odds.

    An adapter folder gives one too, where the adapter brings the score head (as PEFT's SEQ_CLS adapters do) or its base
    has one.
    """
    place = place_model(name)
    if place.base.is_file():
        raise TrineError(f"{place.base} is a language model; name the folder of a reward model")
    compute = (hardware.compute_dtype, hardware.device)
    if not place.adapters:
        model = load_score_model(place.base, *compute, ignored=ignored, positive_logit=positive_logit)
        return model, Tokenizer.load(place.base)
    trunk, scored = _scored_base(place.base, hardware, ignored)
    head: Tensor | None = None if scored is None else scored.head.weight
    for folder in place.adapters:
        merged = merge_adapter(trunk, folder, ignored=ignored)
        trunk, head = merged.model, head if merged.head is None else merged.head
    if head is None:
        raise TrineError(f"{place.adapters[-1]} holds no reward model: neither it nor its base has {SCORE_WEIGHT}")
    model = ScoreModel(trunk)
    model.head.weight.data.copy_(head)
    if scored is not None:
        model.reads_as(scored)
    return model.to(hardware.device), _beside(place, Tokenizer.load(place.base))


def open_task_model(name: Path | str, hardware: Hardware) -> tuple[TaskModel, Tokenizer] | None:
    """A model of `trine finetune --task` and its tokenizer; None where `name` is anything else."""
    place = place_model(name)
    if place.adapters or not place.base.is_dir() or read_task(place.base) is None:
        return None
    model = load_task_model(place.base, hardware.compute_dtype, hardware.device)
    return model, Tokenizer.load(place.base)


def is_reward_model(name: Path | str) -> bool:
    """Whether `name` stands for a folder with a score head, or for an adapter of one."""
    base = place_model(name).base
    return base.is_dir() and has_score_head(base)


def _scored_base(folder: Path, hardware: Hardware, ignored: Collection[str]) -> tuple[Transformer, ScoreModel | None]:
    """The trunk of an adapter's base and, unless that is a plain language model, the reward model it is."""
    compute = (hardware.compute_dtype, hardware.device)
    if not has_score_head(folder):
        return load_model(folder, *compute, ignored=ignored), None
    model = load_score_model(folder, *compute, ignored=ignored)
    return model.trunk, model


def _stored_dtype(folder: Path) -> StoredDtype:
    kinds = {place.dtype for place in open_weights(folder).places.values()}
    return _DTYPES.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"
