"""What the Transformer promises: causality, positions, dtypes, and padding that changes nothing."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import FAMILY_NAMES, random_ids, tiny_config, tiny_model
from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.data.packing import pack
from trine.model.transformer import Transformer, initialize
from trine.records import TokenSpan

families = pytest.mark.parametrize("family", FAMILY_NAMES)


@families
@torch.no_grad()
def test_the_future_does_not_change_the_past_and_the_past_changes_the_future(family: str) -> None:
    model, ids = tiny_model(family), random_ids(2, 12)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 97
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-4


@families
def test_the_gradient_of_a_position_reaches_no_later_token(family: str) -> None:
    model, ids = tiny_model(family), torch.arange(12)[None]
    model(ids)[0, 5].sum().backward()
    reached = model.embedding.weight.grad[:12].abs().sum(-1) > 0
    assert reached.tolist() == [True] * 6 + [False] * 6


@families
@torch.no_grad()
def test_right_padding_and_batch_mates_do_not_change_a_row(family: str) -> None:
    model, ids = tiny_model(family), random_ids(3, 9)
    alone = model(ids[:1, :6])
    together = model(ids)[:1, :6]
    assert_close(alone, together, atol=1e-5, rtol=1e-5)


@families
@torch.no_grad()
def test_explicit_causal_bias_and_positions_are_the_defaults(family: str) -> None:
    model, ids = tiny_model(family), random_ids(2, 8)
    bias = torch.full((1, 8, 8), float("-inf")).triu(1)
    explicit = model(ids, positions=torch.arange(8).expand(2, 8), bias=bias)
    assert_close(model(ids), explicit, atol=1e-6, rtol=1e-6)


@families
@torch.no_grad()
def test_packed_examples_see_only_themselves(family: str) -> None:
    model, ids = tiny_model(family), random_ids(1, 9)
    spans = [TokenSpan(tuple(part.tolist()), (True,) * len(part)) for part in (ids[0, :4], ids[0, 4:])]
    rows = pack(spans, [[0, 1]], 10, 0.0)
    packed = model(rows.ids, positions=rows.positions, starts=rows.starts)
    assert_close(packed[:, :4], model(ids[:, :4]), atol=1e-5, rtol=1e-5)
    assert_close(packed[:, 4:9], model(ids[:, 4:]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rotary_models_know_distances_only() -> None:
    model, ids = tiny_model("qwen3"), random_ids(1, 8)
    assert_close(model(ids, positions=torch.arange(5, 13)[None]), model(ids), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_learned_positions_are_absolute() -> None:
    model, ids = tiny_model("gpt2"), random_ids(1, 8)
    assert (model(ids, positions=torch.arange(5, 13)[None]) - model(ids)).abs().max() > 0.1


@families
def test_bf16_products_leave_fp32_weights_and_gradients(family: str) -> None:
    model, ids = tiny_model(family, dtype=torch.bfloat16), random_ids(2, 8)
    hidden = model(ids)
    assert hidden.dtype == torch.bfloat16
    exact = tiny_model(family)(ids)
    assert (hidden - exact).abs().mean() < 0.05
    cross_entropy_sum(hidden.flatten(0, 1), model.output_weight, ids.flatten(), torch.ones(16)).backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


@families
@torch.no_grad()
def test_fp64_is_fp32_with_more_digits(family: str) -> None:
    exact = tiny_model(family, dtype=torch.float64).double()
    assert_close(exact(random_ids(2, 8)).float(), tiny_model(family)(random_ids(2, 8)), atol=2e-5, rtol=1e-4)


@families
def test_every_parameter_is_trained(family: str) -> None:
    model, ids = tiny_model(family), random_ids(2, 8)
    hidden = model(ids).flatten(0, 1)
    cross_entropy_sum(hidden, model.output_weight, ids.flatten(), torch.ones(16)).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


@families
def test_initialisation_depends_on_the_seed_alone_and_shrinks_residual_projections(family: str) -> None:
    first, second, other = (Transformer(tiny_config(family, layers=8)) for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        initialize(model, seed)
    weights = dict(first.named_parameters())
    assert all(torch.equal(weights[name], parameter) for name, parameter in second.named_parameters())
    assert not torch.equal(weights["embedding.weight"], dict(other.named_parameters())["embedding.weight"])
    assert weights["embedding.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(parameter.any() for name, parameter in weights.items() if name.endswith("bias"))
    assert weights["blocks.0.mlp.down.weight"].std().item() == pytest.approx(0.02 / 4, rel=0.1)
