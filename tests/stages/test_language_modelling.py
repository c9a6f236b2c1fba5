"""The loss as one module, and what a token of it costs."""

import pytest
import torch

from tests.tiny import random_ids, tiny_config, tiny_model
from trine.data.rows import window_batch
from trine.runtime.distributed import ALONE
from trine.stages.language_modelling import (
    LanguageModelLoss,
    loss_sum,
    shared_loss_sum,
    training_flops_per_token,
    whole_model,
)


def test_the_module_sums_what_logits_say() -> None:
    model, windows = tiny_model("gpt2"), random_ids(3, 17)
    rows = window_batch(windows)
    logits = model(windows[:, :-1]) @ model.output_weight.T
    expected = torch.nn.functional.cross_entropy(
        logits.detach().flatten(0, 1), windows[:, 1:].flatten(), reduction="sum"
    )
    assert float(loss_sum(LanguageModelLoss(model), rows).detach()) == pytest.approx(float(expected), rel=1e-5)
    assert rows.count == 3 * 16


@torch.no_grad()
def test_rows_without_weight_add_nothing() -> None:
    module, rows = LanguageModelLoss(tiny_model()), window_batch(random_ids(2, 9))
    assert shared_loss_sum(module, [rows.without_weight()], ALONE) == (0.0, 0.0)
    once, thrice = (shared_loss_sum(module, [rows] * count, ALONE) for count in (1, 3))
    assert thrice == (pytest.approx(3 * once[0]), 3 * once[1])


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama"])
def test_a_token_costs_six_operations_a_weight_and_its_attention(family: str) -> None:
    config, model = tiny_config(family), tiny_model(family)
    products = sum(p.numel() for name, p in model.named_parameters() if "blocks." in name and p.dim() == 2)
    products += model.output_weight.numel()
    attention = 6 * config.layers * config.heads * config.head_dim * 40
    assert training_flops_per_token(config, 40) == 6 * products + attention


def test_a_model_that_is_not_sharded_is_whole() -> None:
    model = tiny_model()
    assert whole_model(model) is model
