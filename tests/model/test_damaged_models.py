"""Models' files as disks, downloads and people leave them: the right model, or a TrineError that names the file.

A changed bit inside a tensor's data cannot be noticed (neither format has a checksum): there the shapes are right.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.mutations import mutations
from tests.tiny import random_ids, tiny_model, tiny_tokenizer
from trine.model.adapter_folder import save_adapter
from trine.model.adapter_merging import merge_adapter
from trine.model.folder import load_model, save_model
from trine.model.gguf.reading import read_gguf
from trine.model.gguf.writing import write_gguf
from trine.model.lora import LoraSettings, add_lora
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

CPU = torch.device("cpu")
IDS = random_ids(1, 5)


def folder_of(folder: Path) -> Path:
    save_model(tiny_model("llama", layers=1), folder, max_shard_bytes=9000)
    return folder


def single(folder: Path) -> Path:
    save_model(tiny_model("llama", layers=1), folder)
    return folder


def adapted(folder: Path) -> Path:
    model = tiny_model("llama", layers=1)
    add_lora(model, LoraSettings(2, 4.0), seed=0)
    save_adapter(model, folder, base="base")
    return folder


def gguf(folder: Path) -> Path:
    write_gguf(tiny_model("llama", vocab_size=320, layers=1), tiny_tokenizer(), folder / "m.gguf", "float16", "m")
    return folder


def opened_folder(folder: Path) -> Transformer:
    return load_model(folder, torch.float32, CPU)


def opened_adapter(folder: Path) -> Transformer:
    return merge_adapter(tiny_model("llama", layers=1), folder).model


def opened_gguf(folder: Path) -> Transformer:
    return read_gguf(folder / "m.gguf").model(torch.float32, CPU)


FILES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Transformer], str]] = {
    "config.json": (single, opened_folder, "config.json"),
    "model.safetensors": (single, opened_folder, "model.safetensors"),
    "index": (folder_of, opened_folder, "model.safetensors.index.json"),
    "shard": (folder_of, opened_folder, "model-00001-of-"),
    "gguf": (gguf, opened_gguf, "m.gguf"),
    "adapter_config.json": (adapted, opened_adapter, "adapter_config.json"),
    "adapter_model.safetensors": (adapted, opened_adapter, "adapter_model.safetensors"),
}


def shapes(model: Transformer) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_gives_the_model_or_an_error_that_names_it(kind: str, tmp_path: Path) -> None:
    """4.5, 3.5: 120 damaged copies of each file of a model; never another exception, never part of a model."""
    make, open_it, start = FILES[kind]
    make(tmp_path)
    path = next(path for path in sorted(tmp_path.iterdir()) if path.name.startswith(start))
    data, right, errors = path.read_bytes(), open_it(tmp_path), 0
    for name, damaged in mutations(data, seed=12, count=120):
        path.write_bytes(damaged)
        try:
            model = open_it(tmp_path)
        except TrineError as error:
            errors += 1
            assert str(tmp_path) in str(error), name
            continue
        if model.config == right.config:  # a digit of a dimension that no tensor has, such as the context, may change
            assert shapes(model) == shapes(right), name
        assert all(parameter.isfinite().all() for parameter in model.parameters()), name
    assert errors > 50
