"""Model shapes: sizes and refusals."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import FAMILY_NAMES, tiny_config
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError


def real_count(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())


def test_gpt2_with_a_vocabulary_of_50000_has_124_million_parameters() -> None:
    config = gpt2_config(vocab_size=50_000)
    assert config.parameter_count == real_count(config) == 124_242_432


def test_gpt2_itself_has_its_published_size() -> None:
    assert gpt2_config().parameter_count == 124_439_808


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_parameter_count_is_that_of_the_model(family: str) -> None:
    config = tiny_config(family)
    for variant in (config, replace(config, tied_embeddings=not config.tied_embeddings), replace(config, layers=3)):
        assert variant.parameter_count == real_count(variant)


def test_qwen3_dimensions_are_multiples_of_32() -> None:
    config = qwen3_config(1000, 128, 4, 256, 4, kv_heads=2)
    assert config.mlp_width % 32 == 0
    assert config.parameter_count == real_count(config)


def test_heads_that_do_not_share_keys_evenly_are_refused() -> None:
    with pytest.raises(TrineError, match="heads=4 is not a multiple of kv_heads=3"):
        replace(tiny_config("llama"), kv_heads=3)


def test_an_odd_head_dimension_cannot_be_rotated() -> None:
    with pytest.raises(TrineError, match="head_dim=5 is odd"):
        replace(tiny_config("llama"), head_dim=5)
