"""Rows for new tokens: where they begin, what stays, and training them alone."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import random_ids, tiny_model
from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.model.growth import NOISE, grow_vocabulary, train_rows


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_new_rows_are_the_mean_and_seeded_noise(family: str) -> None:
    model, same, other = (tiny_model(family) for _ in range(3))
    old = model.embedding.weight.detach().clone()
    new = grow_vocabulary(model, 97, 3, seed=1)
    grow_vocabulary(same, 97, 3, seed=1)
    grow_vocabulary(other, 97, 3, seed=2)
    assert (new, model.config.vocab_size) == (range(97, 100), 100)
    for table, twin, third in zip(_tables(model), _tables(same), _tables(other), strict=True):
        assert table.shape == (100, 32)
        assert torch.equal(table, twin)
        assert not torch.equal(table[97:], third[97:])
        away = (table[97:] - table[:97].mean(0)) / table[:97].std(0)
        assert away.std().item() == pytest.approx(NOISE, rel=0.4)
        assert not torch.equal(table[97], table[98])
    assert torch.equal(model.embedding.weight[:97], old)


def _tables(model: torch.nn.Module) -> list[torch.Tensor]:
    return [each.detach() for name, each in model.named_parameters() if name in ("embedding.weight", "head.weight")]


def test_hidden_states_of_text_stay_bit_for_bit() -> None:
    model, ids = tiny_model(), random_ids(2, 9)
    before = model(ids).detach()
    grow_vocabulary(model, 97, 5, seed=0)
    assert torch.equal(model(ids).detach(), before)


def test_rows_that_no_token_uses_yet_come_first() -> None:
    """As in Qwen's models, which have more rows than tokens."""
    model = tiny_model()
    assert grow_vocabulary(model, 95, 1, seed=0) == range(95, 96)
    assert model.config.vocab_size == 97
    assert grow_vocabulary(model, 96, 3, seed=0) == range(96, 99)
    assert model.config.vocab_size == len(model.embedding.weight) == 99


def test_training_rows_alone_leaves_all_others_bit_for_bit() -> None:
    model = tiny_model()
    new = grow_vocabulary(model, 97, 3, seed=0)
    model.requires_grad_(False)
    train_rows(model.embedding.weight, new)
    before = model.embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW([model.embedding.weight], lr=0.1, weight_decay=0.0)
    for step in range(3):
        optimizer.zero_grad()
        for part in range(2):  # two micro-batches
            ids = random_ids(2, 9, vocab_size=100, seed=2 * step + part)
            hidden = model(ids[:, :-1]).flatten(0, 1)
            targets = ids[:, 1:].flatten()
            cross_entropy_sum(hidden, model.output_weight, targets, torch.ones(targets.shape)).backward()
        optimizer.step()
    after = model.embedding.weight.detach()
    assert torch.equal(after[:97], before[:97])
    assert ((after[97:] - before[97:]).norm(dim=1) > 0.5).all()
    assert_close(model.blocks[0].mlp.up.weight, tiny_model().blocks[0].mlp.up.weight, atol=0, rtol=0)
