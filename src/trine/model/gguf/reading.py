"""Reading GGUF: a file becomes the parts of a Hugging Face folder, and from there takes the normal path."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.model.families import from_hugging_face_config, from_hugging_face_weights
from trine.model.generation_config import GenerationDefaults
from trine.model.gguf.config import architecture_of, read_config
from trine.model.gguf.parts import read_model_file
from trine.model.gguf.vocabulary import read_tokenizer
from trine.model.gguf.weights import attention_heads, read_weights, stored_dtype
from trine.model.transformer import Transformer
from trine.model.weight_files import StoredDtype
from trine.runtime.errors import TrineError
from trine.tokenizer.files import TokenizerFiles


@dataclass(frozen=True)
class HuggingFaceParts:
    """`config`: config.json. `weights`: fp32 tensors by Hugging Face name. `dtype`: the smallest lossless dtype."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer: TokenizerFiles
    generation: GenerationDefaults
    dtype: StoredDtype
    place: str

    def model(self, compute_dtype: torch.dtype, device: torch.device) -> Transformer:
        """The language model, fp32 weights, products in `compute_dtype`.

        Raises `TrineError` naming a tensor that is missing, unexpected or of the wrong shape.
        """
        config = from_hugging_face_config(self.config, self.place)
        with torch.device("meta"):
            model = Transformer(config, compute_dtype)
        ours = from_hugging_face_weights(self.weights, config, self.place)
        for name, parameter in model.named_parameters():
            if ours[name].shape != parameter.shape:
                found, expected = tuple(ours[name].shape), tuple(parameter.shape)
                raise TrineError(f"{self.place}: tensor for {name} has shape {found}, but the metadata says {expected}")
        model.load_state_dict(ours, assign=True)
        return model.requires_grad_(True).to(device)


def read_gguf_tokenizer(path: Path) -> tuple[TokenizerFiles, dict[str, Any]]:
    """The tokenizer and the `config.json` of the model in the GGUF file `path`, without its weights."""
    container = read_model_file(Path(path))
    table, config = architecture_of(container), read_config(container)
    files, _ = read_tokenizer(container, config["vocab_size"], config[table.keys["context_length"]])
    return files, config


def read_gguf(path: Path, ignored: Collection[str] = ()) -> HuggingFaceParts:
    """Read the GGUF file `path`; raises `TrineError` naming the file and what is damaged or unsupported.

    Metadata keys `ignored` are treated as absent.

    Example::

        parts = read_gguf(Path("model.gguf"))
        model = parts.model(torch.float32, torch.device("cpu"))
        tokenizer = Tokenizer(parts.tokenizer)
    """
    container = read_model_file(Path(path)).without(ignored)
    table, config = architecture_of(container), read_config(container)
    context, layers = (config[table.keys[key]] for key in ("context_length", "block_count"))
    tokenizer, generation = read_tokenizer(container, config["vocab_size"], context)
    weights = read_weights(container, table, attention_heads(config), layers)
    return HuggingFaceParts(config, weights, tokenizer, generation, stored_dtype(container), str(path))
