"""An adapter's folder that does not fit, or was not written as PEFT writes one, is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.test_lora import adapted
from tests.tiny import tiny_model
from trine.model.adapter_folder import save_adapter
from trine.model.adapter_merging import merge_adapter
from trine.model.lora import (
    lora_parameters,
)
from trine.runtime.errors import TrineError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(adapted("llama"), tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_replication", [[0, 1]]), ("target_parameters", ["x"]), ("alora_invocation_tokens", [3]),
        ("use_qalora", True), ("something_new", 0.5), ("init_lora_weights", "pissa"), ("peft_type", "IA3"),
        ("bias", "some"), ("rank_pattern", ["q_proj"]), ("target_modules", "model.*(q_proj"),
    ],
)  # fmt: skip
def test_what_could_change_the_numbers_is_refused_by_name(folder: Path, key: str, value: Any) -> None:
    edit_config(folder, **{key: value})
    with pytest.raises(TrineError, match=key if value != "model.*(q_proj" else "is no regular expression"):
        merge_adapter(tiny_model("llama"), folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0), ("r", "3"), ("r", 3.0), ("r", True), ("r", 10**30), ("r", [3]), ("lora_alpha", "6"),
        ("lora_alpha", float("nan")), ("lora_alpha", float("inf")), ("lora_alpha", 10**400), ("lora_alpha", True),
        ("target_modules", {"q_proj": 1}), ("target_modules", [3]), ("use_rslora", "false"), ("use_rslora", 2),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_name(folder: Path, key: str, value: Any) -> None:
    edit_config(folder, **{key: value})
    with pytest.raises(TrineError, match=rf"adapter_config\.json: {key}="):
        merge_adapter(tiny_model("llama"), folder)


def test_a_rank_that_the_file_does_not_hold_allocates_nothing(folder: Path) -> None:
    edit_config(folder, r=2**31)
    model = tiny_model("llama")
    with pytest.raises(TrineError, match=rf"has shape \(3, \d+\), model and adapter_config\.json say \({2**31}, \d+\)"):
        merge_adapter(model, folder)
    assert not lora_parameters(model)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"r": 1, "r": 2}', "[" * 100_000])
def test_settings_that_are_no_object_are_refused_by_file(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(TrineError, match=r"adapter_config\.json"):
        merge_adapter(tiny_model("llama"), folder)


def test_weights_of_another_kind_are_refused_by_name(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(TrineError, match=r"lora_[AB]\.weight has dtype I8; Trine reads F32"):
        merge_adapter(tiny_model("llama"), folder)


@pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules"])
def test_missing_keys_are_named(folder: Path, key: str) -> None:
    edit_config(folder, **{key: None})
    with pytest.raises(TrineError, match=rf"keys \['{key}'\] are missing"):
        merge_adapter(tiny_model("llama"), folder)


def test_missing_surplus_and_misshapen_tensors_are_named(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    tensor = weights.pop(name)
    save_file(weights | {"odd.weight": tensor.clone()}, path)
    with pytest.raises(
        TrineError, match=r"odd\.weight has no place in the model|model\.layers\.0\.\w+\.\w+ lacks lora_A\.weight"
    ):
        merge_adapter(tiny_model("llama"), folder)
    save_file(weights | {name: tensor[:, :1].contiguous()}, path)
    with pytest.raises(TrineError, match=rf"{name} has shape"):
        merge_adapter(tiny_model("llama"), folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrineError, match=r"adapter_model\.safetensors is damaged"):
        merge_adapter(tiny_model("llama"), folder)
    path.unlink()
    with pytest.raises(TrineError, match=r"adapter_model\.safetensors does not exist"):
        merge_adapter(tiny_model("llama"), folder)


def test_an_adapter_for_another_family_is_refused(folder: Path) -> None:
    with pytest.raises(
        TrineError, match=r"of the gpt2 model .*\['model\.layers\.0\.mlp\.down_proj', .*is it for another base"
    ):
        merge_adapter(tiny_model("gpt2"), folder)
