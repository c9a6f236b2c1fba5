"""The tables of names: complete, unambiguous, and knowing which matrices are fused."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from tests.model.published import PUBLISHED
from tests.tiny import FAMILY_NAMES, tiny_config, tiny_model
from trine.model.config import RopeScaling
from trine.model.families import (
    family_of,
    from_hugging_face_config,
    from_hugging_face_weights,
    fused_blocks,
    to_hugging_face_config,
    to_hugging_face_weights,
)
from trine.runtime.errors import TrineError

families = pytest.mark.parametrize("family", FAMILY_NAMES)


@families
def test_a_shape_names_its_family(family: str) -> None:
    assert family_of(tiny_config(family)).model_type == family


@families
def test_config_and_weights_survive_the_way_there_and_back(family: str) -> None:
    model = tiny_model(family)
    assert from_hugging_face_config(to_hugging_face_config(model.config), "here") == model.config
    weights = dict(model.named_parameters())
    again = from_hugging_face_weights(to_hugging_face_weights(weights, model.config), model.config, "here")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@families
def test_fused_matrices_are_cut_where_their_parts_meet(family: str) -> None:
    config = tiny_config(family)
    for name, parameter in tiny_model(family).named_parameters():
        blocks = fused_blocks(name, config)
        fused = ("qkv.weight",) if family == "gpt2" else ("qkv.weight", "up.weight")
        assert (blocks is not None) == name.endswith(fused)
        if blocks is not None:
            assert sum(blocks) == len(parameter)
    assert fused_blocks("blocks.0.attention.qkv.weight", tiny_config("llama")) == [64, 32, 32]


# config.json as published


published = pytest.mark.parametrize("name", PUBLISHED)


@published
def test_the_config_of_a_published_model_is_understood(name: str) -> None:
    described, parameters = PUBLISHED[name]
    config = from_hugging_face_config(described, name)
    assert config.parameter_count == parameters
    assert from_hugging_face_config(to_hugging_face_config(config), name) == config


@published
def test_what_transformers_makes_of_a_published_config_means_the_same(name: str) -> None:
    described, _ = PUBLISHED[name]
    again = AutoConfig.for_model(**described).to_dict()
    assert from_hugging_face_config(again, name) == from_hugging_face_config(described, name)


def test_published_values_land_in_their_fields() -> None:
    llama = from_hugging_face_config(PUBLISHED["Llama-3.2-1B"][0], "here")
    assert llama.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    assert (llama.rope_theta, llama.kv_heads, llama.head_dim, llama.tied_embeddings) == (500000.0, 8, 64, True)
    qwen = from_hugging_face_config(PUBLISHED["Qwen3-0.6B"][0], "here")
    assert (qwen.head_dim, qwen.width // qwen.heads, qwen.rope_theta, qwen.qk_norm) == (128, 64, 1000000.0, True)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Llama-2-7b", {"pretraining_tp": 2}),
        ("Llama-2-7b", {"attention_bias": True}),
        ("Llama-2-7b", {"sliding_window": 2048}),
        ("Llama-2-7b", {"attn_logit_softcapping": 50.0}),
        ("Llama-2-7b", {"partial_rotary_factor": 0.5}),
        ("Llama-2-7b", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        ("Llama-2-7b", {"auto_map": {"AutoModelForCausalLM": "modeling.Other"}}),
        ("Llama-2-7b", {"is_causal": False}),
        ("Llama-2-7b", {"original_max_position_embeddings": 2048}),
        ("SmolLM2-135M", {"rope_interleaved": True}),
        ("Qwen2.5-0.5B", {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 12}),
        ("Qwen2.5-0.5B", {"use_mrope": True}),
        ("Qwen2.5-0.5B", {"layer_types": ["sliding_attention"] * 24, "sliding_window": 1024, "max_window_layers": 12}),
        ("Qwen3-0.6B", {"per_layer_config": {"0": {"rms_norm_eps": 1e-3}}}),
        ("gpt2", {"rope_theta": 10000.0}),
        ("gpt2", {"pruned_heads": {"0": [1]}}),
        ("gpt2", {"activation_function": "relu"}),
    ],
)
def test_what_would_change_the_numbers_is_refused_by_name(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TrineError, match=f"here: .*{next(iter(changes))}"):
        from_hugging_face_config(PUBLISHED[name][0] | changes, "here")


@pytest.mark.parametrize("name", ["Llama-2-7b", "Qwen2.5-0.5B", "Qwen3-0.6B", "gpt2"])
def test_an_absent_key_means_what_it_means_to_transformers_or_is_missed(name: str) -> None:
    """Left out one at a time: either refused as missing, or the same as transformers' own default for it."""
    described = PUBLISHED[name][0]
    for key in described.keys() - {"model_type"}:
        shorter = {other: value for other, value in described.items() if other != key}
        try:
            ours = from_hugging_face_config(shorter, "here")
        except TrineError as error:
            assert "missing" in str(error) or "not a multiple" in str(error)
            continue
        assert ours == from_hugging_face_config(AutoConfig.for_model(**shorter).to_dict(), "here"), key
