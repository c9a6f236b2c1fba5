"""Scalar heads: where they read, in which dtype, and what normalising does."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import random_ids, tiny_model, tiny_score_model
from trine.data.packing import pad
from trine.model.heads import PolicyWithValue, ScoreModel


@torch.no_grad()
def test_a_score_is_the_head_applied_at_the_last_token_plus_the_offset() -> None:
    model, ids = tiny_score_model(offset=0.25), random_ids(2, 7)
    hidden = model.trunk(ids)
    expected = torch.stack((hidden[0, 6], hidden[1, 3])) @ model.head.weight[0] + 0.25
    assert_close(model(ids, torch.tensor([6, 3])), expected)


@torch.no_grad()
def test_a_score_depends_on_neither_padding_nor_batch_mates() -> None:
    model = tiny_score_model()
    rows = [random_ids(length, seed=length).tolist() for length in (4, 11, 7)]
    ids, lengths = pad(rows, 1)
    wide = torch.cat((ids, torch.full((3, 5), 1)), 1)
    alone = torch.cat([model(torch.tensor([row]), torch.tensor([len(row) - 1])) for row in rows])
    assert_close(model(ids, lengths - 1), alone, atol=1e-5, rtol=1e-5)
    assert_close(model(wide, lengths - 1), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_normalising_twice_composes() -> None:
    model, ids, last = tiny_score_model(offset=0.5), random_ids(3, 5), torch.tensor([4, 4, 4])
    before = model(ids, last)
    model.normalize(2.0, -1.0)
    model.normalize(0.5, 3.0)
    assert_close(model(ids, last), 0.5 * (2.0 * before - 1.0) + 3.0)


def test_the_score_head_starts_small_from_its_seed_alone() -> None:
    first, second, other = (ScoreModel(tiny_model("qwen3")) for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        model.initialize_head(seed)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.std().item() == pytest.approx(33**-0.5, rel=0.4)


@torch.no_grad()
def test_values_start_at_zero_and_are_fp32_under_bf16() -> None:
    model = PolicyWithValue(tiny_model(dtype=torch.bfloat16))
    hidden, values = model(random_ids(2, 6), torch.tensor([0, 1]), torch.tensor([2, 5]))
    assert hidden.shape == (2, 32)
    assert values.dtype == torch.float32
    assert not values.any()


def test_a_critic_of_its_own_leaves_the_policy_without_value_gradient() -> None:
    shared, apart = PolicyWithValue(tiny_model()), PolicyWithValue(tiny_model(), tiny_model(seed=1))
    for model in (shared, apart):
        torch.nn.init.ones_(model.value_head.weight)
        model(random_ids(2, 6), torch.tensor([0, 1]), torch.tensor([2, 5]))[1].sum().backward()
    assert shared.policy.embedding.weight.grad is not None
    assert apart.policy.embedding.weight.grad is None
    assert apart.critic.embedding.weight.grad is not None
