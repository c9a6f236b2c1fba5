"""Models' files as disks, downloads and people leave them: the right model, or a TrineError that names the file.

A changed bit inside a tensor's data cannot be noticed (neither format has a checksum): there the shapes are right.
"""

import json
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


WEIRD = (
    None, True, False, 0, -1, 3, 2**40, 10**400, 0.5, -1.5, float("nan"), float("inf"), "", "x", "(", "(a+)+$" * 5, [],
    [1], ["x"], [None], [[1]], {}, {"x": 1}, {"x": "y"}, {"(": 1}, {"rope_type": "linear", "factor": 10**400},
)  # fmt: skip


CONFIG_KEYS = ("rope_scaling", "layer_types", "sliding_window", "trine", "head_dim", "quantization_config")
ADAPTER_KEYS = (
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "exclude_modules", "use_dora", "bias",
    "lora_bias", "modules_to_save", "trainable_token_indices", "ensure_weight_tying",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["config.json", "adapter_config.json"])
def test_any_value_under_any_key_is_taken_or_refused_by_file(kind: str, tmp_path: Path) -> None:
    """3.5: values of every JSON type under every key that is read."""
    make, open_it, name = FILES[kind]
    make(tmp_path)
    described = json.loads((tmp_path / name).read_text())
    for key in (*described, *(ADAPTER_KEYS if "adapter" in kind else CONFIG_KEYS)):
        for value in WEIRD:
            (tmp_path / name).write_text(json.dumps(described | {key: value}))
            try:
                assert all(parameter.isfinite().all() for parameter in open_it(tmp_path).parameters())
            except TrineError as error:
                assert str(tmp_path) in str(error), (key, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["model.safetensors", "gguf", "adapter_model.safetensors"])
def test_weights_that_are_not_finite_are_refused_by_tensor(kind: str, value: float, tmp_path: Path) -> None:
    """4.5: one such value makes every answer noise."""
    open_it = FILES[kind][1]
    if kind == "model.safetensors":
        model = tiny_model("llama", layers=1)
        model.blocks[0].mlp.up.weight.data[3, 2] = value
        save_model(model, tmp_path)
    elif kind == "gguf":
        model = tiny_model("llama", vocab_size=320, layers=1)
        model.blocks[0].mlp.up.weight.data[3, 2] = value
        write_gguf(model, tiny_tokenizer(), tmp_path / "m.gguf", "float32", "m")
    else:
        model = tiny_model("llama", layers=1)
        add_lora(model, LoraSettings(2, 4.0), seed=0)
        model.blocks[0].mlp.up.lora_A["gate_proj"].data[1, 2] = value
        save_adapter(model, tmp_path)
    with pytest.raises(TrineError, match=r"(mlp\.|gate).* holds 1 values that are NaN or infinite"):
        open_it(tmp_path)
