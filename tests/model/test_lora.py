"""LoRA: adapters alone learn, merging changes nothing, and PEFT computes the same from the same files."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILY_NAMES, random_ids, tiny_model
from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.model.adapter_folder import peft_parameters, save_adapter
from trine.model.adapter_merging import merge_adapter
from trine.model.folder import load_model, save_model
from trine.model.lora import (
    LoraLinear,
    LoraSettings,
    add_lora,
    lora_off,
    lora_parameters,
    merge_lora,
    plain_weights,
    target_names,
)
from trine.model.transformer import Linear, Transformer
from trine.runtime.errors import TrineError

families = pytest.mark.parametrize("family", FAMILY_NAMES)
SETTINGS = LoraSettings(rank=3, alpha=6.0)
IDS = random_ids(3, 17)
GATED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted(family: str, settings: LoraSettings = SETTINGS, dtype: torch.dtype = torch.float32) -> Transformer:
    """A model whose adapters have learned something: no B is 0 any more."""
    model = tiny_model(family, dtype=dtype)
    add_lora(model, settings, seed=1)
    learn(model)
    return model


@torch.no_grad()
def learn(model: Transformer) -> None:
    generator = torch.Generator().manual_seed(9)
    for parameter in lora_parameters(model).values():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def logits_of(model: Transformer, ids: Tensor = IDS) -> Tensor:
    return model(ids) @ model.output_weight.T


def some_targets(family: str) -> tuple[str, ...]:
    """Neither all nor none of what lies in a fused matrix."""
    return ("c_attn", "mlp.c_proj") if family == "gpt2" else ("q_proj", "v_proj", "up_proj")


every_choice = pytest.mark.parametrize("choice", ["all", "some"])


def settings_for(family: str, choice: str, **changes: Any) -> LoraSettings:
    return LoraSettings(3, 6.0, ("all",) if choice == "all" else some_targets(family), **changes)


# What an adapter does


@families
@torch.no_grad()
def test_a_model_just_adapted_computes_what_it_did(family: str) -> None:
    model = tiny_model(family)
    before = logits_of(model)
    add_lora(model, SETTINGS, seed=1)
    assert torch.equal(logits_of(model), before)
    learn(model)
    assert (logits_of(model) - before).abs().max() > 0.1


@torch.no_grad()
def test_an_adapter_adds_its_product_to_its_own_rows_alone() -> None:
    model, x = tiny_model("qwen3"), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2))
    plain = model.blocks[1].attention.qkv(x)
    add_lora(model, LoraSettings(3, 6.0, ("v_proj",)), seed=1)
    learn(model)
    qkv = model.blocks[1].attention.qkv
    expected = plain.clone()
    expected[..., 96:] += 6.0 / 3 * (x @ qkv.lora_A["v_proj"].T @ qkv.lora_B["v_proj"].T)
    assert_close(qkv(x), expected)
    assert type(model.blocks[1].attention.out) is Linear


def test_a_rank_stabilized_adapter_is_scaled_by_the_root_of_its_rank() -> None:
    assert LoraSettings(16, 8.0).scale == 0.5
    assert LoraSettings(16, 8.0, rank_stabilized=True).scale == 2.0


GOLDEN = {"W": [[1.0, 2.0], [3.0, -1.0]], "A": [[1.0, -1.0]], "B": [[0.5], [1.0]]}


def golden_layer(up: list[list[float]]) -> LoraLinear:
    linear = Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor(GOLDEN["W"])
    lora = LoraLinear(linear, {"q_proj": 2}, {"q_proj"}, LoraSettings(1, 2.0))
    lora.lora_A["q_proj"].data, lora.lora_B["q_proj"].data = torch.tensor(GOLDEN["A"]), torch.tensor(up)
    return lora


def test_l1_the_merged_weight_and_both_scales() -> None:
    """L1: W + alpha / r B A with alpha 2, r 1; at rank 16 and alpha 32 LoRA scales by 2, rsLoRA by 8."""
    assert_close(golden_layer(GOLDEN["B"]).merged_weight(), torch.tensor([[2.0, 1.0], [5.0, -3.0]]))
    assert [LoraSettings(16, 32.0, rank_stabilized=stable).scale for stable in (False, True)] == [2.0, 8.0]


def test_l3_the_first_step_moves_b_alone() -> None:
    """L3: at B = 0, for x = (1, 2) and dL/dy = (0.3, -0.2), dL/dA is 0 and dL/dB (-0.6, 0.4)."""
    lora = golden_layer([[0.0], [0.0]])
    (lora(torch.tensor([[1.0, 2.0]])) * torch.tensor([[0.3, -0.2]])).sum().backward()
    assert_close(lora.lora_A["q_proj"].grad, torch.zeros(1, 2))
    assert_close(lora.lora_B["q_proj"].grad, torch.tensor([[-0.6], [0.4]]))


def test_where_an_adapter_starts_depends_on_the_seed_and_its_module_alone() -> None:
    def start(seed: int, *targets: str) -> dict[str, Tensor]:
        model = tiny_model("llama")
        add_lora(model, LoraSettings(3, 6.0, targets), seed)
        return {name: each for name, each in lora_parameters(model).items() if "lora_A.k_proj" in name}

    first, again, other = start(1, "all"), start(1, "k_proj"), start(2, "all")
    assert len(first) == 2
    for name, each in first.items():
        assert torch.equal(each, again[name])
        assert not torch.equal(each, other[name])
        assert 0.9 / 32**0.5 < float(each.detach().abs().max()) <= 1 / 32**0.5
    assert not torch.equal(*first.values())


# What learns


@families
def test_gradients_are_on_adapters_alone_and_a_step_leaves_the_base_bit_for_bit(family: str) -> None:
    model = adapted(family)
    base = {name: each.clone() for name, each in model.named_parameters() if name not in lora_parameters(model)}
    before = {name: each.clone() for name, each in lora_parameters(model).items()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(3):
        hidden = model(IDS)[:, :-1].flatten(0, 1)
        cross_entropy_sum(hidden, model.output_weight, IDS[:, 1:].flatten(), torch.ones(len(hidden))).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in before) == (parameter.grad is not None)
        assert torch.equal(parameter, base[name]) if name in base else not torch.equal(parameter, before[name])
    with torch.no_grad(), lora_off(model):
        assert torch.equal(logits_of(model), logits_of(tiny_model(family)))


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_with_adapters_off_the_model_is_its_base_exactly_and_afterwards_adapted_again(
    family: str, dtype: torch.dtype
) -> None:
    model = adapted(family, dtype=dtype)
    hidden = model(IDS)
    with lora_off(model), lora_off(model):
        assert torch.equal(model(IDS), tiny_model(family, dtype=dtype)(IDS))
    assert torch.equal(model(IDS), hidden)
    assert hidden.dtype == dtype == model.compute_dtype


# Merging


@families
@every_choice
@torch.no_grad()
def test_merged_and_adapted_compute_the_same(family: str, choice: str) -> None:
    model = adapted(family, settings_for(family, choice))
    logits = logits_of(model)
    merge_lora(model)
    assert_close(logits_of(model), logits, atol=1e-4, rtol=1e-4)
    assert not lora_parameters(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


@families
@torch.no_grad()
def test_plain_weights_are_those_of_a_plain_model_that_computes_the_same(family: str) -> None:
    model, plain = adapted(family), tiny_model(family, seed=5)
    assert plain_weights(model).keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(plain_weights(model), strict=True)
    assert_close(logits_of(plain), logits_of(model), atol=1e-4, rtol=1e-4)
    with lora_off(model):
        for name, weight in plain_weights(model).items():
            assert torch.equal(weight, tiny_model(family).get_parameter(name))


def test_plain_weights_of_a_model_without_adapters_are_its_parameters() -> None:
    model = tiny_model("gpt2")
    for name, weight in plain_weights(model).items():
        assert weight.data_ptr() == model.get_parameter(name).data_ptr()
        assert not weight.requires_grad


# PEFT


@torch.no_grad()
def alive(model: Transformer, folder: Path, settings: LoraSettings) -> Transformer:
    """`model` with the adapters in `folder` beside its weights, not merged into them."""
    add_lora(model, settings, seed=0)
    weights = load_file(folder / "adapter_model.safetensors")
    parameters = peft_parameters(model)
    assert weights.keys() == parameters.keys()
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
    return model


def theirs_of(family: str, folder: Path) -> Any:
    """The base of `adapted`, in transformers."""
    save_model(tiny_model(family), folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def adapted_by_peft(family: str, folder: Path, **changes: Any) -> Any:
    targets = list(some_targets(family))
    described = {"r": 3, "lora_alpha": 6, "target_modules": targets, "lora_dropout": 0.1}
    wrapped = peft.get_peft_model(theirs_of(family, folder), peft.LoraConfig(**described | changes)).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(4)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return wrapped


@families
@every_choice
@pytest.mark.parametrize("rank_stabilized", [False, True])
@torch.no_grad()
def test_peft_opens_our_adapter_and_computes_our_logits(
    family: str, choice: str, rank_stabilized: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = adapted(family, settings_for(family, choice, rank_stabilized=rank_stabilized))
    save_adapter(model, tmp_path, base="some/base")
    theirs = peft.PeftModel.from_pretrained(theirs_of(family, tmp_path / "base"), tmp_path).eval()
    assert (theirs(IDS).logits - logits_of(model)).abs().max() < 1e-4
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
    assert theirs.peft_config["default"].base_model_name_or_path == "some/base"


@families
@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"init_lora_weights": "gaussian"}],
    ids=["plain", "rslora", "all-linear", "gaussian"],
)
@torch.no_grad()
def test_we_open_what_peft_wrote_and_compute_its_logits(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = adapted_by_peft(family, tmp_path / "base", **changes)
    theirs.save_pretrained(tmp_path)
    model = merge_adapter(tiny_model(family), tmp_path).model
    assert (theirs(IDS).logits - logits_of(model)).abs().max() < 1e-4
    assert (logits_of(model) - logits_of(tiny_model(family))).abs().max() > 0.1


@families
def test_our_gradients_are_pefts(family: str, tmp_path: Path) -> None:
    theirs = adapted_by_peft(family, tmp_path / "base")
    theirs.save_pretrained(tmp_path)
    theirs(IDS, labels=IDS).loss.backward()
    model = alive(tiny_model(family), tmp_path, LoraSettings(3, 6.0, some_targets(family)))
    hidden = model(IDS)[:, :-1].flatten(0, 1)
    loss = cross_entropy_sum(hidden, model.output_weight, IDS[:, 1:].flatten(), torch.ones(len(hidden)))
    (loss / len(hidden)).backward()
    save_folder = tmp_path / "gradients"
    save_folder.mkdir()
    for parameter in lora_parameters(model).values():
        parameter.data = parameter.grad
    save_adapter(model, save_folder)
    ours = load_file(save_folder / "adapter_model.safetensors")
    expected = {
        name.replace(".default", ""): each.grad for name, each in theirs.named_parameters() if each.grad is not None
    }
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-5
        assert_close(ours[name], gradient, atol=1e-5, rtol=1e-3)


@families
@every_choice
def test_our_own_adapter_comes_back_bit_for_bit(family: str, choice: str, tmp_path: Path) -> None:
    model = adapted(family, settings_for(family, choice))
    save_adapter(model, tmp_path)
    again = alive(tiny_model(family), tmp_path, settings_for(family, choice))
    assert lora_parameters(again).keys() == lora_parameters(model).keys()
    for name, parameter in lora_parameters(model).items():
        assert torch.equal(lora_parameters(again)[name], parameter)
    with torch.no_grad():
        assert torch.equal(logits_of(again), logits_of(model))
        merged = merge_adapter(tiny_model(family), tmp_path).model
        assert_close(logits_of(merged), logits_of(model), atol=1e-4, rtol=1e-4)


# Refusals


@pytest.mark.parametrize(("family", "names"), [("gpt2", ("c_attn", "c_proj", "c_fc")), ("qwen3", GATED)])
def test_wrong_targets_are_refused_with_the_familys_names(family: str, names: tuple[str, ...]) -> None:
    model = tiny_model(family)
    assert target_names(model) == names
    with pytest.raises(
        TrineError, match=rf"\['query', 'proj'\] are not modules of {family}; choose from {', '.join(names)}"
    ):
        add_lora(model, LoraSettings(3, 6.0, (names[0], "query", "proj")), seed=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_is_adapted_once_and_no_adapter_has_rank_0() -> None:
    with pytest.raises(TrineError, match="has LoRA adapters already"):
        add_lora(adapted("llama"), SETTINGS, seed=0)
    with pytest.raises(TrineError, match="rank=0"):
        LoraSettings(0, 1.0)


@families
def test_a_model_saved_with_adapters_on_it_is_saved_as_it_computes(family: str, tmp_path: Path) -> None:
    model = adapted(family)
    save_model(model, tmp_path)
    merge_lora(model)
    again = load_model(tmp_path, torch.float32, torch.device("cpu"))
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_a_model_without_adapters_has_none_to_write(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match="the model has no LoRA adapters"):
        save_adapter(tiny_model("llama"), tmp_path)
