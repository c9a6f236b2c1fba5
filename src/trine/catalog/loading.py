"""Models and tokenizers for stages and commands, from whatever name the user gives (`locating.py`)."""

from dataclasses import dataclass
from pathlib import Path

from trine.catalog.locating import find_model
from trine.config.base import HardwareConfig
from trine.model.folder import load_model, load_score_model
from trine.model.generation_config import GenerationDefaults, read_generation_defaults
from trine.model.gguf.reading import read_gguf
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

    `dtype` is what they were stored in, or fp32 for what was quantised; in memory weights are always fp32.
    """

    model: Transformer
    tokenizer: Tokenizer
    generation: GenerationDefaults
    dtype: StoredDtype


def open_hardware(config: HardwareConfig) -> Hardware:
    return choose_hardware(config.device, config.precision, config.threads)


def open_language_model(name: Path | str, hardware: Hardware) -> OpenedModel:
    """The language model called `name`: a run or model folder, a .gguf file, `smollm2`, or owner/name of the hub."""
    place = find_model(name)
    if place.is_file():
        parts = read_gguf(place)
        model = parts.model(hardware.compute_dtype, hardware.device)
        return OpenedModel(model, Tokenizer(parts.tokenizer), parts.generation, parts.dtype)
    model = load_model(place, hardware.compute_dtype, hardware.device)
    return OpenedModel(model, Tokenizer.load(place), read_generation_defaults(place), _stored_dtype(place))


def open_model(name: Path | str, hardware: Hardware) -> tuple[Transformer, Tokenizer]:
    """A language model and its tokenizer."""
    opened = open_language_model(name, hardware)
    return opened.model, opened.tokenizer


def open_score_model(name: Path | str, hardware: Hardware) -> tuple[ScoreModel, Tokenizer]:
    """A reward model and its tokenizer; `TrineError` where `name` is no folder that holds one."""
    folder = find_model(name)
    if folder.is_file():
        raise TrineError(f"{folder} is a language model; name the folder of a reward model")
    return load_score_model(folder, hardware.compute_dtype, hardware.device), Tokenizer.load(folder)


def _stored_dtype(folder: Path) -> StoredDtype:
    kinds = {place.dtype for place in open_weights(folder).places.values()}
    return _DTYPES.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"
