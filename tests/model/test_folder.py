"""Model folders against `transformers`: each opens what the other wrote, and computes the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.tiny import FAMILY_NAMES, random_ids, tiny_config, tiny_model, tiny_score_model
from trine.data.packing import pad
from trine.model.families import FAMILIES, SWITCHED_OFF, to_hugging_face_config, to_hugging_face_weights
from trine.model.folder import load_model, load_score_model, read_config, save_model, save_score_model
from trine.model.transformer import Transformer
from trine.model.weight_files import StoredDtype
from trine.runtime.errors import TrineError

CPU = torch.device("cpu")
PAD = 1
families = pytest.mark.parametrize("family", FAMILY_NAMES)


def logits_of(model: Transformer, ids: Tensor) -> Tensor:
    return model(ids) @ model.output_weight.T


def reopen(folder: Path) -> Transformer:
    return load_model(folder, torch.float32, CPU)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_model("llama"), tmp_path)
    return tmp_path


def stock_config(family: str, **changes: Any) -> Any:
    if family == "gpt2":
        return GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, **changes)
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family]
    shape = {
        "vocab_size": 97, "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }  # fmt: skip
    return kind(**shape | changes)


def stock_model(family: str, auto: Any = AutoModelForCausalLM, **changes: Any) -> PreTrainedModel:
    model = auto.from_config(stock_config(family, **changes)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


# What Trine writes, transformers opens


@families
@torch.no_grad()
def test_transformers_opens_our_folder_and_computes_our_logits(family: str, tmp_path: Path) -> None:
    model, ids = tiny_model(family), random_ids(3, 17)
    save_model(model, tmp_path, eos_token_id=[3, 0], pad_token_id=PAD)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert (theirs(ids).logits - logits_of(model, ids)).abs().max() < 1e-4
    assert (theirs.config.eos_token_id, theirs.config.pad_token_id) == ([3, 0], PAD)


@families
def test_our_own_folder_comes_back_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    save_model(model, tmp_path)
    again = reopen(tmp_path)
    assert again.config == model.config == read_config(tmp_path)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


@families
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@torch.no_grad()
def test_a_smaller_dtype_and_shards_open_alike_in_transformers_and_here(
    family: str, dtype: StoredDtype, tmp_path: Path
) -> None:
    model, ids = tiny_model(family), random_ids(2, 9)
    save_model(model, tmp_path, dtype=dtype, max_shard_bytes=9000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    stored, ours = getattr(torch, dtype), reopen(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == stored
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert (theirs(ids).logits - logits_of(ours, ids)).abs().max() < 1e-4
    for name, parameter in ours.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, model.get_parameter(name).to(stored).float())


@torch.no_grad()
def test_shards_of_transformers_open_here(tmp_path: Path) -> None:
    stock_model("qwen3").to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="9KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    theirs, ids = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), random_ids(2, 9)
    assert (theirs(ids).logits - logits_of(reopen(tmp_path), ids)).abs().max() < 1e-4


# What transformers writes, Trine opens


@families
@torch.no_grad()
def test_we_open_a_folder_of_transformers_bit_for_bit(family: str, tmp_path: Path) -> None:
    theirs, ids = stock_model(family), random_ids(3, 17)
    theirs.save_pretrained(tmp_path)
    ours = reopen(tmp_path)
    for name, tensor in to_hugging_face_weights(dict(ours.named_parameters()), ours.config).items():
        assert torch.equal(tensor, theirs.state_dict()[name])
    assert (theirs(ids).logits - logits_of(ours, ids)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
        ("llama", {"head_dim": 16, "num_key_value_heads": 1}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1}),
        ("gpt2", {"n_inner": 40, "layer_norm_epsilon": 1e-3}),
        ("llama", {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ],
)
@torch.no_grad()
def test_every_setting_that_is_understood_changes_the_numbers_as_in_transformers(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    theirs, ids = stock_model(family, **changes), random_ids(2, 17)
    theirs.save_pretrained(tmp_path)
    if "sliding_window" in changes:  # as the published Qwen2.5 folders have it; transformers drops it on writing
        edit_config(tmp_path, sliding_window=changes["sliding_window"])
    assert (theirs(ids).logits - logits_of(reopen(tmp_path), ids)).abs().max() < 1e-4


@torch.no_grad()
def test_a_bare_trunk_opens_too_as_gpt2_itself_is_published(tmp_path: Path) -> None:
    theirs, ids = stock_model("gpt2", AutoModel), random_ids(2, 9)
    theirs.save_pretrained(tmp_path)
    assert_close(theirs(ids).last_hidden_state, reopen(tmp_path)(ids), atol=1e-4, rtol=1e-4)


# Refusals


@families
def test_every_fixed_setting_is_refused_by_name_at_any_other_value(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    for key in FAMILIES[family].fixed | SWITCHED_OFF:
        save_model(model, tmp_path)
        edit_config(tmp_path, **{key: "something else"})
        with pytest.raises(TrineError, match=f"{key}='something else' is not supported"):
            read_config(tmp_path)


def test_unknown_config_keys_are_refused_by_name(folder: Path) -> None:
    edit_config(folder, attention_soft_cap=30.0, logit_scale=2.0)
    with pytest.raises(TrineError, match=r"unknown keys \['attention_soft_cap', 'logit_scale'\]"):
        reopen(folder)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0},
        {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
    ],
)
def test_rotary_positions_that_are_not_understood_are_refused(folder: Path, rope: dict[str, Any]) -> None:
    edit_config(folder, rope_parameters=rope)
    with pytest.raises(TrineError, match="rope"):
        reopen(folder)


def test_an_older_folder_with_rope_theta_of_its_own_opens(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    del described["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(described))
    assert read_config(folder).rope_theta == 5000.0


@pytest.mark.parametrize("kinds", [["full_attention", "sliding_attention"], ["linear_attention"], "full_attention", 3])
def test_layers_that_do_not_attend_to_everything_are_refused(folder: Path, kinds: Any) -> None:
    edit_config(folder, layer_types=["full_attention", "full_attention"])
    reopen(folder)
    edit_config(folder, layer_types=kinds)
    with pytest.raises(TrineError, match=r"layer_types=.* is not supported, only 'full_attention' everywhere"):
        reopen(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "32"), ("hidden_size", -32), ("hidden_size", 2**40), ("hidden_size", 32.0),
        ("num_attention_heads", True), ("vocab_size", [97]), ("rms_norm_eps", "small"), ("rms_norm_eps", -1e-6),
        ("tie_word_embeddings", "no"), ("max_position_embeddings", 0), ("rope_theta", "big"), ("rope_theta", 0),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_or_size_is_named(folder: Path, key: str, value: Any) -> None:
    edit_config(folder, rope_parameters=None, **{key: value})
    with pytest.raises(TrineError, match=rf"config\.json: {key}="):
        read_config(folder)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
def test_absurd_sizes_cost_nothing_before_they_are_refused(folder: Path, key: str) -> None:
    edit_config(folder, **{key: 2**24})
    with pytest.raises(TrineError):
        reopen(folder)


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"model_type": "gpt2", "model_type": "llama"}', "[" * 200_000])
def test_a_config_that_is_no_plain_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(TrineError, match=r"config\.json (is not readable JSON|holds a JSON list)"):
        reopen(folder)


def test_tied_tables_that_differ_are_refused(tmp_path: Path) -> None:
    """transformers would quietly untie them, and compute something else than the config says."""
    save_model(tiny_model("qwen3"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": table.clone()}, tmp_path / "model.safetensors")
    reopen(tmp_path)
    save_file(weights | {"lm_head.weight": table + 1}, tmp_path / "model.safetensors")
    with pytest.raises(TrineError, match=r"lm_head\.weight differs from the embeddings"):
        reopen(tmp_path)


def test_a_classifier_of_several_labels_is_no_reward_model(tmp_path: Path) -> None:
    stock_model("qwen2", AutoModelForSequenceClassification, num_labels=3, pad_token_id=PAD).save_pretrained(tmp_path)
    with pytest.raises(TrineError, match=r"score\.weight has shape \(3, 32\)"):
        load_score_model(tmp_path, torch.float32, CPU)


def test_other_families_are_refused_with_the_list_of_ours(folder: Path) -> None:
    edit_config(folder, model_type="mamba")
    with pytest.raises(TrineError, match="model_type='mamba'; Trine opens gpt2, llama, qwen2, qwen3"):
        reopen(folder)


def test_missing_and_surplus_tensors_are_refused_by_name(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    norm = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(TrineError, match=r"tensors \['model.norm.weight'\] are missing"):
        reopen(folder)
    save_file(weights | {"model.norm.weight": norm, "adapter.weight": norm.clone()}, folder / "model.safetensors")
    with pytest.raises(TrineError, match=r"'adapter\.weight'"):
        reopen(folder)


def test_tensors_of_another_size_than_the_config_says_are_refused(folder: Path) -> None:
    edit_config(folder, intermediate_size=64)
    with pytest.raises(TrineError, match=r"mlp\.down_proj\.weight has shape \(32, 48\), config\.json says \(32, 64\)"):
        reopen(folder)


def test_a_damaged_or_absent_weight_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrineError, match=r"model\.safetensors is damaged"):
        reopen(folder)
    path.unlink()
    with pytest.raises(TrineError, match=r"model\.safetensors does not exist"):
        reopen(folder)


def test_a_shape_of_no_family_cannot_be_written() -> None:
    with pytest.raises(TrineError, match="no Hugging Face family has the architecture"):
        to_hugging_face_config(replace(tiny_config("llama"), norm="layer"))


def test_language_and_reward_models_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    save_model(tiny_model("gpt2"), tmp_path)
    with pytest.raises(TrineError, match="holds no reward model"):
        load_score_model(tmp_path, torch.float32, CPU)
    save_score_model(tiny_score_model("gpt2"), tmp_path, pad_token_id=PAD)
    with pytest.raises(TrineError, match="holds a reward model"):
        reopen(tmp_path)


# Reward models as sequence classifiers


@families
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_stock_classifier_plus_offset_gives_our_score_however_it_is_padded(
    family: str, side: str, tmp_path: Path
) -> None:
    model = tiny_score_model(family)
    save_score_model(model, tmp_path, pad_token_id=PAD)
    theirs, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    rows = [(random_ids(length, seed=length) + 2).clamp(max=96).tolist() for length in (3, 9, 1, 6)]
    ids, lengths = pad(rows, PAD)
    if side == "left":
        ids = torch.stack([row.roll(ids.shape[1] - int(length)) for row, length in zip(ids, lengths, strict=True)])
    mask = (ids != PAD).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    theirs_scores = theirs(ids, attention_mask=mask, position_ids=positions).logits.squeeze(1) + 0.75
    alone = torch.cat([model(torch.tensor([row]), torch.tensor([len(row) - 1])) for row in rows])
    assert_close(theirs_scores, alone, atol=1e-4, rtol=0)
    padded, lengths = pad(rows, PAD)
    assert_close(model(padded, lengths - 1), alone, atol=1e-5, rtol=0)


@families
@torch.no_grad()
def test_a_reward_folder_comes_back_with_head_and_offset(family: str, tmp_path: Path) -> None:
    model, ids, last = tiny_score_model(family), random_ids(2, 9), torch.tensor([8, 5])
    save_score_model(model, tmp_path, pad_token_id=PAD)
    again = load_score_model(tmp_path, torch.float32, CPU)
    assert again.offset == 0.75
    assert torch.equal(again(ids, last), model(ids, last))


@torch.no_grad()
def test_a_stock_classifier_opens_as_a_reward_model(tmp_path: Path) -> None:
    theirs = stock_model("qwen2", AutoModelForSequenceClassification, num_labels=1, pad_token_id=PAD)
    ids = random_ids(1, 9)
    theirs.save_pretrained(tmp_path)
    ours = load_score_model(tmp_path, torch.float32, CPU)
    assert_close(ours(ids, torch.tensor([8])), theirs(ids).logits[0], atol=1e-4, rtol=0)


def test_an_untied_reward_model_shares_no_memory_between_its_tables(tmp_path: Path) -> None:
    """safetensors refuses to save tensors that share memory, so a checkpoint of such a critic would fail."""
    save_score_model(tiny_score_model("llama"), tmp_path, pad_token_id=1)
    trunk = load_score_model(tmp_path, torch.float32, torch.device("cpu")).trunk
    assert trunk.head.weight.data_ptr() != trunk.embedding.weight.data_ptr()
