"""Chunked cross-entropy and log-probabilities against the plain formulas on full logits, in value and gradient."""

from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import random_ids, random_tensor
from trine.algorithms import text_log_probs as module
from trine.algorithms.text_log_probs import cross_entropy_sum, target_log_probs, token_log_probs

ROWS, WIDTH, VOCABULARY = 11, 8, 23
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=[1, 3, 4, 1024], autouse=True)
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with chunks of one row, with a short last chunk, and with everything in one."""
    monkeypatch.setattr(module, "CHUNK_ROWS", request.param)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    hidden = random_tensor(ROWS, WIDTH, seed=1, dtype=dtype).requires_grad_()
    weight = random_tensor(VOCABULARY, WIDTH, seed=2, dtype=dtype).requires_grad_()
    return hidden, weight, random_ids(ROWS, vocab_size=VOCABULARY)


def plain_log_softmax(hidden: Tensor, weight: Tensor, temperature: float = 1.0) -> Tensor:
    return (hidden.double() @ weight.double().T / temperature).log_softmax(-1)


def assert_same_gradients(ours: Tensor, plain: Tensor, hidden: Tensor, weight: Tensor) -> None:
    for mine, reference in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        assert_close(mine, reference, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_equals_that_of_full_logits(dtype: torch.dtype) -> None:
    hidden, weight, targets = inputs(dtype)
    row_weights = random_tensor(ROWS, seed=3).abs()
    ours = cross_entropy_sum(hidden, weight, targets, row_weights)
    plain = -(plain_log_softmax(hidden, weight)[torch.arange(ROWS), targets] * row_weights).sum()
    assert_close(ours, plain, rtol=1e-6, atol=0)
    assert_same_gradients(ours, plain, hidden, weight)


def test_the_gradient_of_cross_entropy_scales_with_what_comes_after() -> None:
    hidden, weight, targets = inputs()
    once = torch.autograd.grad(cross_entropy_sum(hidden, weight, targets, torch.ones(ROWS)), (hidden, weight))
    thrice = torch.autograd.grad(3 * cross_entropy_sum(hidden, weight, targets, torch.ones(ROWS)), (hidden, weight))
    for small, large in zip(once, thrice, strict=True):
        assert_close(large, 3 * small)


def test_rows_of_weight_zero_count_for_nothing() -> None:
    hidden, weight, targets = inputs()
    row_weights = torch.tensor([1.0] * 7 + [0.0] * 4)
    whole = cross_entropy_sum(hidden, weight, targets, row_weights)
    cut = cross_entropy_sum(hidden[:7], weight, targets[:7], row_weights[:7])
    assert_close(whole, cut)
    for wide, narrow in zip(
        torch.autograd.grad(whole, (hidden, weight)), torch.autograd.grad(cut, (hidden, weight)), strict=True
    ):
        assert_close(wide, narrow)


def test_a_uniform_prediction_costs_log_of_the_vocabulary() -> None:
    loss = cross_entropy_sum(torch.zeros(2, WIDTH), torch.ones(VOCABULARY, WIDTH), torch.tensor([0, 5]), torch.ones(2))
    assert float(loss) == pytest.approx(2 * log(VOCABULARY), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probs_and_entropy_equal_those_of_full_logits(dtype: torch.dtype, temperature: float) -> None:
    hidden, weight, targets = inputs(dtype)
    log_probs, entropy = token_log_probs(hidden, weight, targets, temperature)
    table = plain_log_softmax(hidden, weight, temperature)
    plain_log_probs, plain_entropy = table[torch.arange(ROWS), targets], -(table.exp() * table).sum(-1)
    assert_close(log_probs.double(), plain_log_probs, rtol=1e-5, atol=2e-6)
    assert_close(entropy.double(), plain_entropy, rtol=1e-5, atol=2e-6)
    for ours, plain in ((log_probs, plain_log_probs), (entropy, plain_entropy)):
        mix = random_tensor(ROWS, seed=4)
        sums = (ours * mix).sum(), (plain * mix).sum()
        for mine, reference in zip(
            *(torch.autograd.grad(total, (hidden, weight), retain_graph=True) for total in sums), strict=True
        ):
            assert_close(mine, reference, rtol=1e-4, atol=2e-6)


def test_gradients_of_log_probs_and_entropy_add_up() -> None:
    hidden, weight, targets = inputs()
    log_probs, entropy = token_log_probs(hidden, weight, targets, 0.6)
    table = plain_log_softmax(hidden, weight, 0.6)
    plain = table[torch.arange(ROWS), targets].square().sum() - 0.3 * (table.exp() * table).sum()
    assert_same_gradients(log_probs.square().sum() + 0.3 * entropy.sum(), plain, hidden, weight)


def test_log_probs_sum_to_one_over_all_targets() -> None:
    hidden, weight, _ = inputs()
    everything = [
        token_log_probs(hidden[:1], weight, torch.tensor([target]), 0.6)[0].exp() for target in range(VOCABULARY)
    ]
    assert torch.cat(everything).sum().item() == pytest.approx(1.0, abs=1e-5)


def test_log_probs_are_minus_the_cross_entropy() -> None:
    hidden, weight, targets = inputs()
    loss = cross_entropy_sum(hidden, weight, targets, torch.ones(ROWS))
    assert_close(-token_log_probs(hidden, weight, targets)[0].sum().double(), loss, rtol=1e-6, atol=0)


def test_results_are_fp32_when_products_are_bf16_and_gradients_have_the_dtypes_of_the_inputs() -> None:
    hidden, weight, targets = inputs()
    low = hidden.detach().bfloat16().requires_grad_()
    log_probs, entropy = token_log_probs(low, weight, targets)
    (log_probs + entropy).sum().backward()
    assert log_probs.dtype == entropy.dtype == torch.float32
    assert (low.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    assert_close(log_probs, token_log_probs(hidden, weight, targets)[0], atol=0.1, rtol=0.05)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_target_log_probs_are_token_log_probs_without_the_rest(
    temperature: float,
) -> None:
    hidden, weight, targets = random_tensor(11, 8), random_tensor(13, 8, seed=1), torch.arange(11)
    expected, _ = token_log_probs(hidden, weight, targets, temperature)
    assert torch.equal(target_log_probs(hidden, weight, targets, temperature), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_are_kept_and_those_that_are_computed_again_give_the_same_bits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for kept_bytes in (1 << 20, 0):
        monkeypatch.setattr(module, "KEPT_BYTES", kept_bytes)
        hidden, weight, targets = inputs()
        low = hidden.detach().to(dtype).requires_grad_()
        log_probs, entropy = token_log_probs(low, weight, targets, 0.6)
        total = (log_probs.square() + entropy).sum()
        first = torch.autograd.grad(total, (low, weight), retain_graph=True)
        found.append([log_probs, entropy, *first, *torch.autograd.grad(total, (low, weight))])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    for one, again in zip(found[0][2:4], found[0][4:], strict=True):
        assert torch.equal(one, again)
