"""The tables of names: complete, unambiguous, and knowing which matrices are fused."""

import pytest
import torch

from tests.tiny import FAMILY_NAMES, tiny_config, tiny_model
from trine.model.families import (
    family_of,
    from_hugging_face_config,
    from_hugging_face_weights,
    fused_blocks,
    to_hugging_face_config,
    to_hugging_face_weights,
)

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
