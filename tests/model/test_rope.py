"""Rotary frequencies, bit for bit those of transformers, and both of their forms in config.json."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.tiny import tiny_config
from trine.model.config import ModelConfig, RopeScaling
from trine.model.families import from_hugging_face_config, to_hugging_face_config
from trine.model.rope import rotary_frequencies
from trine.runtime.errors import TrineError

SCALINGS = {
    "plain": None,
    "linear": RopeScaling("linear", 2.5),
    "llama3": RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
    "llama3 of other factors": RopeScaling("llama3", 32.0, 0.5, 6.0, 300),
}
scalings = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)


def rotary_config(scaling: RopeScaling | None) -> ModelConfig:
    return replace(tiny_config("llama"), head_dim=64, rope_scaling=scaling)


def opened(**changes: Any) -> ModelConfig:
    return from_hugging_face_config(to_hugging_face_config(rotary_config(None)) | changes, "here")


def theirs(config: ModelConfig) -> torch.Tensor:
    return LlamaRotaryEmbedding(LlamaConfig(**to_hugging_face_config(config))).inv_freq


@scalings
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_the_frequencies_are_bit_for_bit_those_of_transformers(scaling: RopeScaling | None, theta: float) -> None:
    config = replace(rotary_config(scaling), rope_theta=theta)
    assert torch.equal(rotary_frequencies(config), theirs(config))


def test_llama3_keeps_high_frequencies_divides_low_ones_and_blends_between() -> None:
    plain = rotary_frequencies(rotary_config(None))
    ratios = plain / rotary_frequencies(rotary_config(SCALINGS["llama3"]))
    assert ratios[0] == 1
    assert ratios[-1] == 8
    assert ((ratios > 1) & (ratios < 8)).any()


@scalings
def test_either_form_alone_says_the_same(scaling: RopeScaling | None) -> None:
    config = rotary_config(scaling)
    described = to_hugging_face_config(config)
    old = {key: value for key, value in described.items() if key != "rope_parameters"}
    new = {key: value for key, value in described.items() if key not in ("rope_theta", "rope_scaling")}
    for form in (described, old, new):
        assert from_hugging_face_config(form, "here") == config


def test_the_oldest_form_calls_its_kind_type() -> None:
    assert opened(rope_scaling={"type": "linear", "factor": 4}).rope_scaling == RopeScaling("linear", 4.0)


def test_a_theta_inside_goes_before_the_one_outside() -> None:
    assert opened(rope_theta=7.0, rope_parameters={"rope_type": "default", "rope_theta": 9.0}).rope_theta == 9.0
    assert opened(rope_theta=7.0, rope_parameters={"rope_type": "default"}).rope_theta == 7.0


def test_llama3_without_an_original_context_takes_the_models() -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = opened(rope_scaling=rope).rope_scaling
    assert scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, original_context=64)


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "proportional", "axial", "ntk"])
def test_other_kinds_of_scaling_are_refused_by_name(kind: str) -> None:
    with pytest.raises(TrineError, match=f"here: rope_type='{kind}' is not supported, only default, linear, llama3"):
        opened(rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 2.0})


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "linear"}, r"rope_type='linear' needs \['factor'\]"),
        ({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.1}, r"unknown rope keys \['attention_factor'\]"),
        ({"rope_type": "default", "factor": 2.0}, r"unknown rope keys \['factor'\] beside rope_type='default'"),
        ({"rope_type": "linear", "factor": "two"}, "factor='two' is not a positive number"),
        ({"rope_type": "linear", "factor": -1.0}, "factor=-1.0 is not a positive number"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_type": "default", "rope_theta": None}, "rope_theta=None is not a positive number"),
        ({"full_attention": {"rope_type": "default"}}, r"unknown rope keys \['full_attention'\]"),
        ({"rope_type": ["linear"]}, r"rope_type=\['linear'\] is not supported"),
        ([1], r"rope scaling is \[1\], not a JSON object"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
            "here: rope scaling has low_frequency_factor=4.0",
        ),
    ],
)
def test_what_is_not_understood_inside_is_refused_by_name(rope: Any, message: str) -> None:
    with pytest.raises(TrineError, match=message):
        opened(rope_parameters=rope)


def test_scaling_without_sense_cannot_be_made() -> None:
    with pytest.raises(TrineError, match=r"factor=0\.0; it must be a positive number"):
        RopeScaling("linear", 0.0)
    with pytest.raises(TrineError, match="position='learned'"):
        replace(tiny_config("gpt2"), rope_scaling=RopeScaling("linear", 2.0))
