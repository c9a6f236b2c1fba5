"""Packing is best fit, loses nothing, and packed rows give what padded rows give."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.tiny import FAMILY_NAMES, random_ids, tiny_config, tiny_model, tiny_score_model
from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.data.packing import fit_rows, pack, pack_answers, pad
from trine.model.transformer import Transformer
from trine.records import TokenSpan
from trine.runtime.errors import TrineError
from trine.stages.language_modelling import LanguageModelLoss, loss_sum

LENGTHS = (9, 3, 14, 5, 2, 7, 16, 4)
ROW = 16


def span(length: int, seed: int) -> TokenSpan:
    """The first third is a prompt."""
    return TokenSpan(
        tuple(random_ids(length, seed=seed).tolist()), tuple(place >= length / 3 for place in range(length))
    )


SPANS = [span(length, seed) for seed, length in enumerate(LENGTHS)]


def loss_and_gradients(model: Transformer, rows: list[list[int]], context_weight: float) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = loss_sum(LanguageModelLoss(model), pack(SPANS, rows, ROW, context_weight))
    loss.backward()
    return {"loss": loss.detach()} | {
        name: value.grad for name, value in model.named_parameters() if value.grad is not None
    }


def reference_loss(model: Transformer, context_weight: float) -> torch.Tensor:
    """Every span alone, no packing and no padding, plain log-softmax."""
    total = torch.zeros((), dtype=torch.float64)
    for one in SPANS:
        ids = torch.tensor([one.ids])
        log_probs = (model(ids)[0, :-1] @ model.output_weight.T).log_softmax(-1).double()
        weights = torch.tensor([1.0 if trained else context_weight for trained in one.trained[1:]])
        total = total - (log_probs.gather(1, ids[0, 1:, None]).squeeze(1) * weights).sum()
    return total


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("context_weight", [0.0, 0.5])
def test_packed_equals_padded_equals_one_by_one(family: str, context_weight: float) -> None:
    model = tiny_model(family)
    packed = loss_and_gradients(model, fit_rows(LENGTHS, ROW), context_weight)
    padded = loss_and_gradients(model, [[item] for item in range(len(SPANS))], context_weight)
    assert_close(packed, padded, rtol=1e-4, atol=1e-4)
    model.zero_grad()
    alone = reference_loss(model, context_weight)
    alone.backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    assert_close(packed, {"loss": alone.detach()} | gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_packed_and_unpacked_have_one_loss_and_one_gradient_to_a_millionth(family: str) -> None:
    """In fp32, as shares of their sizes: the loss, and the gradient of each parameter."""
    model = tiny_model(family)
    packed = loss_and_gradients(model, fit_rows(LENGTHS, ROW), 0.0)
    unpacked = loss_and_gradients(model, [[item] for item in range(len(SPANS))], 0.0)
    for name, value in unpacked.items():
        assert (packed[name] - value).norm() <= 1e-6 * value.norm() + 1e-12, name


def test_e9_positions_and_attention_restart_and_no_target_crosses_a_boundary() -> None:
    """E9: lengths 3 and 2 in a row of 5: positions 0 1 2 0 1; 2 + 1 targets of 5, none of the next example's first."""
    spans = [TokenSpan((11, 12, 13), (True,) * 3), TokenSpan((21, 22), (True,) * 2)]
    batch = pack(spans, [[0, 1]], 5, 1.0)
    assert batch.positions is not None and batch.starts is not None
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1]] and batch.starts.tolist() == [[0, 0, 0, 3, 3]]
    assert batch.weights.tolist() == [[1, 1, 0, 1, 0]] and batch.count == 3
    assert batch.targets[batch.weights > 0].tolist() == [12, 13, 22]
    model = tiny_model("qwen3")
    other = pack([TokenSpan((5, 6, 7), (True,) * 3), spans[1]], [[0, 1]], 5, 1.0)
    hidden = [model(each.ids, positions=each.positions, starts=each.starts)[0, 3:] for each in (batch, other)]
    assert_close(*hidden, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_the_packed_batch_has_the_loss_of_a_mask_that_is_written_out(dtype: torch.dtype, bound: float) -> None:
    """In bf16 it takes the compiled causal attention, which no written-out mask does: equal to rounding."""
    model = tiny_model(replace(tiny_config("qwen3"), head_dim=32), dtype=dtype)
    batch = pack(SPANS, fit_rows(LENGTHS, ROW), ROW, 0.5)
    assert batch.starts is not None
    places = torch.arange(ROW)
    seen = (batch.starts.unsqueeze(2) == batch.starts.unsqueeze(1)) & (places <= places.unsqueeze(1))
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))
    hidden = model(batch.ids, positions=batch.positions, bias=bias).flatten(0, 1)
    written_out = cross_entropy_sum(hidden, model.output_weight, batch.targets.flatten(), batch.weights.flatten())
    assert_close(loss_sum(LanguageModelLoss(model), batch), written_out, rtol=bound, atol=0.0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@torch.no_grad()
def test_examples_of_one_row_do_not_see_each_other(family: str) -> None:
    """Whatever stands in the other examples of its row, an example's hidden states are the same to the bit."""
    model, rows = tiny_model(family), fit_rows(LENGTHS, ROW)
    items = next(items for items in rows if len(items) > 1)
    others = [replace(one, ids=tuple(reversed(one.ids))) for one in SPANS]
    first, last = LENGTHS[items[0]], sum(LENGTHS[item] for item in items[:-1])
    before, changed_last, changed_first = (
        hidden_of(model, {**dict(enumerate(SPANS)), **changes}, items)
        for changes in ({}, {items[-1]: others[items[-1]]}, {items[0]: others[items[0]]})
    )
    assert torch.equal(before[:last], changed_last[:last]) and not torch.equal(before[last:], changed_last[last:])
    assert torch.equal(before[first:], changed_first[first:]) and not torch.equal(before[:first], changed_first[:first])


def hidden_of(model: Transformer, spans: dict[int, TokenSpan], items: list[int]) -> torch.Tensor:
    """Hidden states of one row of `items`."""
    batch = pack([spans[item] for item in range(len(spans))], [items], ROW, 0.0)
    return model(batch.ids, positions=batch.positions, starts=batch.starts)[0]


def test_a_first_token_is_never_a_target() -> None:
    """Nor is what follows an example's last token, or padding."""
    batch = pack(SPANS, fit_rows(LENGTHS, ROW), ROW, 1.0)
    firsts = batch.positions.roll(-1, 1) == 0
    assert bool((batch.weights[firsts] == 0).all()) and bool((batch.weights[:, -1] == 0).all())
    assert batch.count == float(batch.weights.sum()) == sum(LENGTHS) - len(LENGTHS)


def test_every_span_lies_whole_between_its_start_and_the_next() -> None:
    rows = fit_rows(LENGTHS, ROW)
    batch = pack(SPANS, rows, ROW, 0.0)
    for row, items in enumerate(rows):
        start = 0
        for item in items:
            there = batch.starts[row] == start
            assert tuple(batch.ids[row][there].tolist()) == SPANS[item].ids
            assert batch.positions[row][there].tolist() == list(range(LENGTHS[item]))
            start += LENGTHS[item]


def test_targets_are_the_next_tokens_and_weigh_what_training_says() -> None:
    batch = pack(SPANS, [[0], [1, 4]], ROW, 0.25)
    weights = [1.0 if trained else 0.25 for trained in SPANS[0].trained[1:]]
    assert batch.targets[0, : LENGTHS[0] - 1].tolist() == list(SPANS[0].ids[1:])
    assert batch.weights[0].tolist() == weights + [0.0] * (ROW - len(weights))


def test_a_padding_position_sees_itself_alone() -> None:
    batch = pack(SPANS, [[1]], ROW, 0.0)
    assert batch.starts[0].tolist() == [0] * LENGTHS[1] + list(range(LENGTHS[1], ROW))
    assert batch.positions[0, LENGTHS[1] :].tolist() == [0] * (ROW - LENGTHS[1])


@given(st.lists(st.integers(1, 40), max_size=60))
def test_every_item_is_in_exactly_one_row_and_no_row_is_too_long(lengths: list[int]) -> None:
    rows = fit_rows(lengths, 40)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in row) <= 40 for row in rows)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_no_two_rows_could_be_one(lengths: list[int]) -> None:
    """A row is opened only when nothing fits, so the two emptiest rows together exceed one row."""
    filled = sorted(sum(lengths[item] for item in row) for row in fit_rows(lengths, 40))
    assert len(filled) < 2 or filled[0] + filled[1] > 40


@given(st.lists(st.integers(1, 40), max_size=60))
def test_each_item_goes_where_it_leaves_least_room(lengths: list[int]) -> None:
    """Replayed by hand: longest first, into the fullest row that still has room."""
    filled: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, size in enumerate(filled) if size + length <= 40]
        if fitting:
            filled[max(fitting, key=filled.__getitem__)] += length
        else:
            filled.append(length)
    assert sorted(sum(lengths[item] for item in row) for row in fit_rows(lengths, 40)) == sorted(filled)


@given(st.lists(st.integers(1, 40), max_size=30))
def test_fitting_is_deterministic(lengths: list[int]) -> None:
    assert fit_rows(lengths, 40) == fit_rows(list(lengths), 40)


def test_an_item_longer_than_a_row_is_refused() -> None:
    with pytest.raises(TrineError, match="an example of 17 tokens does not fit a row of 16"):
        fit_rows([3, 17], 16)


def test_padding_fills_the_right_and_tells_the_lengths() -> None:
    ids, lengths = pad([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert lengths.tolist() == [3, 1]


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_two_answers_behind_one_prompt_score_as_in_rows_of_their_own(family: str) -> None:
    model = tiny_score_model(family)
    triples = [([5, 6, 7], [8, 9, 10, 11], [12]), ([20], [21, 22], [23, 24, 25, 26, 27])]
    rows = pack_answers(triples)
    scores = model(rows.ids, rows.ends, positions=rows.positions, segments=rows.segments)
    for row, (prompt, *answers) in enumerate(triples):
        for place, text in enumerate(answers):
            ids = torch.tensor([prompt + text])
            assert_close(model(ids, torch.tensor([ids.shape[1] - 1]))[0], scores[row, place], atol=1e-5, rtol=1e-5)
