"""Writing GGUF: a language model and its tokenizer as one file for llama.cpp and compatible programs."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_VERSION, LlamaFileType
from gguf.gguf_writer import GGUFWriter
from torch import Tensor

from trine.model.families import to_hugging_face_config, to_hugging_face_weights
from trine.model.gguf.config import config_settings
from trine.model.gguf.tables import ARCHITECTURES, ROPE_FACTORS
from trine.model.gguf.vocabulary_writing import tokenizer_settings
from trine.model.gguf.weights import GgufDtype, attention_heads, gguf_weights, stored, stored_shape, stored_type
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer
from trine.runtime.files import disk_errors, sync_folder
from trine.tokenizer.tokenizer import Tokenizer

_FILE_TYPES = {
    "float32": LlamaFileType.ALL_F32,
    "float16": LlamaFileType.MOSTLY_F16,
    "bfloat16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def write_gguf(model: Transformer, tokenizer: Tokenizer, path: Path, dtype: GgufDtype, name: str) -> None:
    """Write the GGUF file `path` atomically; matrices in `dtype`, vectors in fp32.

    Example::

        model = load_model(Path("runs/chat/model"), torch.float32, torch.device("cpu"))
        tokenizer = Tokenizer.load(Path("runs/chat/model"))
        write_gguf(model, tokenizer, Path("chat.gguf"), "q8_0", name="chat")

    Raises `TrineError` if GGUF cannot represent the tokenizer or the rope scaling, or a weight exceeds fp16.
    """
    config = to_hugging_face_config(model.config)
    settings, factors = config_settings(config)
    general = {"type": "model", "name": name, "file_type": int(_FILE_TYPES[dtype])}
    general |= {"quantization_version": GGML_QUANT_VERSION} if dtype == "q8_0" else {}
    writer = GGUFWriter(None, config["model_type"])
    for prefix, group in (
        ("general", general),
        (config["model_type"], settings),
        ("tokenizer", tokenizer_settings(tokenizer, model.config.vocab_size)),
    ):
        for key, value in group.items():
            _add(writer, f"{prefix}.{key}", value)
    weights = to_hugging_face_weights(plain_weights(model), model.config)
    table = ARCHITECTURES[config["model_type"]]
    tensors = dict(gguf_weights(weights, table, attention_heads(config), model.config.layers))
    tensors |= {} if factors is None else {ROPE_FACTORS: torch.from_numpy(factors)}
    _write(writer, tensors, Path(path), dtype)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _write(writer: GGUFWriter, tensors: dict[str, Tensor], path: Path, dtype: GgufDtype) -> None:
    """Write the header, then one tensor at a time, so that only one is held in quantised form."""
    aside = path.with_name(f".{path.name}.partial")
    kinds = {name: stored_type(name, tuple(tensor.shape), dtype) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        shape = stored_shape(tuple(tensor.shape), kinds[name])
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kinds[name])
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer.write_header_to_file(aside)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor in tensors.items():
                writer.write_tensor_data(stored(name, tensor, kinds[name]))
            writer.flush()
            _sync(aside)
            aside.replace(path)
        except Exception:
            aside.unlink(missing_ok=True)
            raise
        finally:
            writer.close()
        sync_folder(path.parent)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
