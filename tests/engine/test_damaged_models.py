"""Logits that are not finite come from the model: no filter may take the blame for them, or hide them."""

from typing import Any

import pytest
import torch

from tests.engine.helpers import all_is_given_back
from tests.tiny import tiny_model, tiny_tokenizer
from trine.engine.engine import Engine
from trine.engine.sampling import Constraint, Sampling
from trine.runtime.errors import TrineError

FILTERS: list[dict[str, Any]] = [
    {"top_k": 5},
    {"top_p": 0.9},
    {"min_p": 0.1},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
    {"logit_bias": ((3, 1.0),)},
    {"temperature": 0.0, "logit_bias": ((3, 1.0),)},
    {"repetition_penalty": 1.2},
    {"presence_penalty": 0.5},
    {"eos_ids": (0,), "constraint": Constraint("regex", "[0-9]{3}")},
]


@pytest.mark.parametrize("settings", FILTERS, ids="+".join)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_damaged_model_is_refused_under_every_filter(settings: dict[str, Any], value: float, native: bool) -> None:
    model = tiny_model(vocab_size=320)
    with torch.no_grad():
        model.norm.weight.fill_(value)
    engine = Engine(model, tokenizer=tiny_tokenizer(), native=native)
    with pytest.raises(TrineError, match="weights are damaged"):
        engine.generate([[1, 2, 3]], Sampling(4, **settings))
    assert all_is_given_back(engine)


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"repetition_penalty": 1.2}], ids="+".join)
def test_one_logit_that_is_not_finite_is_enough(settings: dict[str, Any], native: bool) -> None:
    model = tiny_model("llama", vocab_size=320)
    with torch.no_grad():
        model.output_weight[7].fill_(torch.nan)
    engine = Engine(model, native=native)
    with pytest.raises(TrineError, match="weights are damaged"):
        engine.generate([[1, 2, 3]], Sampling(4, **settings))
