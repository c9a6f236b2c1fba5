"""The operations in C++ against the plain formulas in fp64: values and gradients, bf16 and fp32, one thread and two."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.tiny import random_tensor
from trine.algorithms.text_log_probs import (
    cross_entropy_and_gradient,
    cross_entropy_sum,
    log_probs_and_entropies,
    token_log_probs_gradient,
)
from trine.model import kernels, products, training_library
from trine.model import training_kernels as native
from trine.model.config import gpt2_config, qwen3_config
from trine.model.transformer import Transformer, initialize

Operation = Callable[..., Tensor | tuple[Tensor, ...]]
DTYPES = {torch.float32: 3e-6, torch.bfloat16: 8e-3}  # and the relative error allowed: a few roundings of values
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def library() -> None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if os.environ.get("TRINE_NATIVE") == "0" or not compiler:
        pytest.skip("no C++ compiler, or TRINE_NATIVE=0")
    assert training_library.training_library() is not None, "the C++ of the training step does not compile"


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the C++ functions that were called."""
    names: list[str] = []
    call = training_library.call
    for module in (native, products):
        monkeypatch.setattr(module, "call", lambda name, *rest: (names.append(name), call(name, *rest))[1])
    return names


def results(operation: Operation, inputs: list[Tensor]) -> list[Tensor]:
    """Values, and gradients for a fixed cotangent."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    out = operation(*leaves)
    values = [out] if isinstance(out, Tensor) else list(out)
    cotangents = [random_tensor(*each.shape, seed=40 + i).to(each.dtype) for i, each in enumerate(values)]
    return [*values, *torch.autograd.grad(values, leaves, cotangents)]


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).detach().norm() / exact.double().detach().norm())


def own_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In C++ whatever is fastest here; in fp64 the formula."""
    return (native.linear if x.dtype in DTYPES else kernels.linear)(x, weight, bias)


def assert_equal_to_plain(operation: Operation, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """`operation` (in C++) is as exact as `dtype` allows, and gives the same bits twice."""
    ours, again = results(operation, inputs), results(operation, inputs)
    exact = results(operation, [each.double() for each in inputs])
    for mine, repeated, reference in zip(ours, again, exact, strict=True):
        assert torch.equal(mine, repeated)
        assert error(mine, reference) < DTYPES[dtype]


@dtypes
@pytest.mark.parametrize("centred", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("added", [True, False], ids=["added", "alone"])
def test_add_norm(dtype: torch.dtype, centred: bool, added: bool, threads: int, calls: list[str]) -> None:
    x, delta = (random_tensor(3, 7, 48, seed=seed).to(dtype) for seed in (1, 2))
    weight, bias = random_tensor(48, seed=3) + 1, random_tensor(48, seed=4)

    def operation(*inputs: Tensor) -> tuple[Tensor, ...]:
        rest = list(inputs[1:])
        other = rest.pop(0) if added else None
        total, out = kernels.add_norm(inputs[0], other, rest[0], rest[1] if centred else None, 1e-5)
        return (total, out) if added else (out,)

    inputs = [x, *([delta] if added else []), weight, *([bias] if centred else [])]
    assert_equal_to_plain(operation, inputs, dtype)
    assert set(calls) == {"norm_forward", "norm_backward"}


@dtypes
@pytest.mark.parametrize("name", ["gelu", "swiglu"])
def test_activations(dtype: torch.dtype, name: str, threads: int, calls: list[str]) -> None:
    x = 4 * random_tensor(3, 5, 96, seed=1).to(dtype)
    assert_equal_to_plain(getattr(kernels, name), [x], dtype)
    assert set(calls) == {f"{name}_forward", f"{name}_backward"}


@pytest.mark.parametrize("name", ["gelu", "swiglu"])
def test_activations_far_from_zero_stay_finite_and_a_nan_stays_one(name: str) -> None:
    far = [-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e4, float("nan")]
    x = torch.tensor(far).repeat(4).requires_grad_()
    out = getattr(kernels, name)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    for values in (out, gradient):
        assert values.isnan().tolist() == [i % 8 == 7 for i in range(len(values))]
        assert values[~values.isnan()].isfinite().all()


@dtypes
@pytest.mark.parametrize("normed", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize("turned", [True, False], ids=["rotary", "no rotary"])
def test_turn_heads(dtype: torch.dtype, normed: bool, turned: bool, threads: int, calls: list[str]) -> None:
    if not normed and not turned:
        return
    qkv = random_tensor(2, 5, 8, 32, seed=1).to(dtype)
    scales = [random_tensor(32, seed=seed) + 1 for seed in (2, 3)] if normed else []
    angles = torch.arange(16) / 7
    tables = kernels.rotary_table(angles, torch.arange(5)[None], dtype) if turned else None

    def operation(x: Tensor, *weights: Tensor) -> Tensor:
        rotary = None if tables is None else (tables[0].to(x.dtype), tables[1].to(x.dtype))
        return kernels.apply_rotary(x, (weights[0], weights[1]) if weights else None, rotary, (4, 2), 1e-5)

    assert_equal_to_plain(operation, [qkv, *scales], dtype)
    assert set(calls) == {"rotary_forward", "rotary_backward"}


def starts_of(*rows: list[int]) -> Tensor:
    """Documents of these lengths in each row."""
    ends = [torch.tensor(lengths).cumsum(0) for lengths in rows]
    return torch.stack(
        [(end - torch.tensor(row)).repeat_interleave(torch.tensor(row)) for end, row in zip(ends, rows, strict=True)]
    )


@dtypes
@pytest.mark.parametrize("rows", [128, 131])
@pytest.mark.parametrize("sizes", [(32, 32), (96, 80), (64, 208)])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_linear(
    dtype: torch.dtype, rows: int, sizes: tuple[int, int], biased: bool, threads: int, calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On every processor, whether or not something faster is chosen there."""
    monkeypatch.setenv(products.VARIABLE, "own")
    x, weight = random_tensor(rows, sizes[0], seed=1).to(dtype), random_tensor(sizes[1], sizes[0], seed=2)
    inputs = [x, weight, *([random_tensor(sizes[1], seed=3)] if biased else [])]
    assert_equal_to_plain(lambda x, w, b=None: own_linear(x, w, b), inputs, dtype)
    assert set(calls) == {"linear_forward", "linear_backward"}


def test_long_sums_of_a_weight_gradient_are_exact() -> None:
    """More rows than are summed at once; products of bf16 are exact in fp32, so only the order of the sum differs."""
    x, gradient = (random_tensor(2500, 32, seed=seed).bfloat16() for seed in (1, 2))
    weight = torch.zeros(32, 32, requires_grad=True)
    native.linear(x, weight, None).backward(gradient)
    assert error(weight.grad, gradient.double().T @ x.double()) < 1e-6


def test_a_frozen_weight_gets_no_gradient() -> None:
    x, weight = random_tensor(128, 32, seed=1).bfloat16().requires_grad_(), random_tensor(32, 32, seed=2)
    kernels.linear(x, weight, None).sum().backward()
    assert weight.grad is None and x.grad is not None


def without_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_recipe_of", lambda tensor: None)


def kept_bytes(make: Callable[[], object]) -> int:
    """What `make` keeps for its backward pass, every storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = make()
    assert alive is not None
    return sum(kept.values())


def normed_linear(centred: bool) -> tuple[Operation, list[Tensor]]:
    """The product of a norm, beside the sum that goes on; and its inputs."""
    x, delta = (random_tensor(3, 50, 64, seed=seed).bfloat16() for seed in (1, 2))
    weights = [random_tensor(64, seed=3) + 1, random_tensor(96, 64, seed=5), random_tensor(96, seed=6)]

    def operation(
        x: Tensor, delta: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, *shift: Tensor
    ) -> tuple[Tensor, ...]:
        total, out = kernels.add_norm(x, delta, scale, shift[0] if centred else None, 1e-5)
        return total, own_linear(out, weight, bias)

    return operation, [x, delta, *weights, *([random_tensor(64, seed=4)] if centred else [])]


def activated_linear(name: str) -> tuple[Operation, list[Tensor]]:
    x, width = 4 * random_tensor(3, 50, 128, seed=1).bfloat16(), 64 if name == "swiglu" else 128
    weights = [random_tensor(96, width, seed=5), random_tensor(96, seed=6)]
    return lambda x, weight, bias: own_linear(getattr(kernels, name)(x), weight, bias), [x, *weights]


@pytest.mark.parametrize(
    "case",
    [normed_linear(True), normed_linear(False), activated_linear("gelu"), activated_linear("swiglu")],
    ids=["layer norm", "rms norm", "gelu", "swiglu"],
)
def test_a_product_makes_again_what_it_is_of_and_changes_no_bit(
    case: tuple[Operation, list[Tensor]], threads: int, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, inputs = case
    leaves = [each.clone().requires_grad_() for each in inputs]
    ours, ours_kept, made = results(operation, inputs), kept_bytes(lambda: operation(*leaves)), len(calls)
    without_recipes(monkeypatch)
    kept, all_kept = results(operation, inputs), kept_bytes(lambda: operation(*leaves))
    assert made > len(calls) - made  # the forward pass of a norm or an activation, once more
    for mine, other in zip(ours, kept, strict=True):
        assert torch.equal(mine, other)
    rows_of_width = 2 * 150 * next(each.shape[1] for each in inputs if each.dtype == torch.float32 and each.dim() == 2)
    assert all_kept - ours_kept >= rows_of_width - 4 * 64  # a LayerNorm's bias is kept in its stead


def test_what_was_changed_in_place_is_not_made_again(calls: list[str]) -> None:
    weight = random_tensor(96, 64, seed=5).requires_grad_()
    x = random_tensor(150, 64, seed=1).bfloat16()
    activated = kernels.gelu(x)
    activated.mul_(2)
    native.linear(activated, weight, None).sum().backward()
    assert error(weight.grad, activated.double().sum(0).expand(96, 64)) < DTYPES[torch.bfloat16]


@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_a_whole_step_keeps_less_and_changes_no_bit(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, ours_kept = one_step(shape, torch.bfloat16), kept_bytes(lambda: one_step(shape, torch.bfloat16))
    if not native.linear_usable(torch.empty(147, 64, dtype=torch.bfloat16), torch.empty(64, 64)):
        pytest.skip("this processor has no bf16 pairs, or has matrix units")
    without_recipes(monkeypatch)
    kept, all_kept = one_step(shape, torch.bfloat16), kept_bytes(lambda: one_step(shape, torch.bfloat16))
    assert all_kept > ours_kept
    for mine, other in zip(ours, kept, strict=True):
        assert torch.equal(mine, other)


@dtypes
@pytest.mark.parametrize("vocabulary", [5, 64, 1003])
def test_cross_entropy_and_its_gradient(dtype: torch.dtype, vocabulary: int, threads: int, calls: list[str]) -> None:
    logits = 3 * random_tensor(9, vocabulary, seed=1).to(dtype)
    targets = torch.arange(9) * 7 % vocabulary
    targets[0] = vocabulary - 1
    scales = torch.tensor([0.0, 1.0, 0.5, 2.0, 0.1, 1.0, 1.0, 1.0, 3.0])
    exact = cross_entropy_and_gradient(logits.double(), targets, scales)
    assert calls == []
    ours = cross_entropy_and_gradient(logits.clone(), targets, scales)
    assert calls == ["cross_entropy"]
    assert error(ours[0], exact[0]) < 1e-5
    assert error(ours[1], exact[1]) < DTYPES[dtype]


def test_an_impossible_token_has_no_probability_and_a_nan_is_told() -> None:
    logits = torch.zeros(2, 20)
    logits[0, 3], logits[1, 3] = float("-inf"), float("nan")
    losses, gradient = cross_entropy_and_gradient(logits, torch.tensor([0, 0]), torch.ones(2))
    assert gradient[0, 3] == 0
    assert losses.isnan().tolist() == [False, True]


@dtypes
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [5, 64, 1003])
def test_log_probs_entropies_and_their_gradient(
    dtype: torch.dtype,
    vocabulary: int,
    temperature: float,
    threads: int,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = 3 * random_tensor(9, vocabulary, seed=1).to(dtype)
    targets = torch.arange(9) * 7 % vocabulary
    outer = random_tensor(9, seed=2), random_tensor(9, seed=3)
    exact = torch.log_softmax(logits.double() / temperature, -1)
    entropies = -(exact.exp() * exact).sum(-1)
    ours = log_probs_and_entropies(logits, targets, temperature)
    assert calls == ["token_log_probs_forward"]
    assert error(ours[0], exact[torch.arange(9), targets]) < 1e-5
    assert error(ours[1], entropies) < 1e-5
    given = logits.double().requires_grad_()
    table = torch.log_softmax(given / temperature, -1)
    total = (table[torch.arange(9), targets] * outer[0]).sum() - ((table.exp() * table).sum(-1) * outer[1]).sum()
    (gradient,) = torch.autograd.grad(total, given)
    found = token_log_probs_gradient(logits.clone(), targets, ours[1:], outer, temperature)
    assert calls == ["token_log_probs_forward", "token_log_probs_backward"]
    assert error(found, gradient) < DTYPES[dtype]
    monkeypatch.setattr("trine.algorithms.text_log_probs.usable", lambda *_: False)
    assert error(token_log_probs_gradient(logits, targets, ours[1:], outer, temperature), gradient) < DTYPES[dtype]


def test_a_token_that_cannot_come_has_no_entropy_and_no_gradient_and_a_nan_is_told() -> None:
    logits = torch.zeros(2, 20)
    logits[0, 3], logits[1, 3] = float("-inf"), float("nan")
    targets, outer = torch.tensor([0, 0]), (torch.ones(2), torch.ones(2))
    log_probs, entropies, *normalizers = log_probs_and_entropies(logits, targets, 0.5)
    assert [round(float(each[0]), 4) for each in (log_probs, entropies)] == [-2.9444, 2.9444]  # log 19
    assert log_probs.isnan().tolist() == entropies.isnan().tolist() == [False, True]
    gradient = token_log_probs_gradient(logits, targets, (entropies, *normalizers), outer, 0.5)
    assert gradient[0, 3] == 0
    assert not gradient[0].isnan().any()


def one_step(shape: str, dtype: torch.dtype, recompute: bool = False) -> list[Tensor]:
    make = {"gpt2": gpt2_config, "qwen3": qwen3_config}[shape]
    model = Transformer(make(203, 64, 2, 64, 2), dtype)
    initialize(model, 0)
    model.recompute_blocks = recompute
    ids = torch.randint(203, (3, 50), generator=torch.Generator().manual_seed(1))
    starts = starts_of([49], [20, 29], [3, 40, 6])
    hidden = model(ids[:, :-1], starts=starts).flatten(0, 1)
    loss = cross_entropy_sum(hidden, model.output_weight, ids[:, 1:].flatten(), torch.full((147,), 1 / 147))
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


@dtypes
@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_a_whole_step_is_no_less_exact_than_the_plain_one(
    shape: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = one_step(shape, dtype)
    monkeypatch.setattr(native, "usable", lambda *_, **__: False)
    plain, exact = one_step(shape, dtype), one_step(shape, torch.float64)
    for mine, simple, reference in zip(ours, plain, exact, strict=True):
        assert error(mine, reference) < 1.5 * error(simple, reference) + DTYPES[dtype]


@dtypes
@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_recomputing_blocks_changes_no_bit(shape: str, dtype: torch.dtype) -> None:
    for kept, made_again in zip(one_step(shape, dtype), one_step(shape, dtype, recompute=True), strict=True):
        assert torch.equal(kept, made_again)


def test_without_the_library_the_formulas_do_it(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(training_library, "training_library", lambda: None)
    one_step("qwen3", torch.bfloat16)
    assert calls == []


@pytest.mark.slow
def test_a_model_compiles_and_computes_the_same(calls: list[str]) -> None:
    model = Transformer(gpt2_config(203, 64, 2, 64, 2))
    initialize(model, 0)
    ids = torch.arange(40).reshape(2, 20)
    plain = torch.autograd.grad(model(ids).square().sum(), list(model.parameters()))
    calls.clear()
    compiled = torch.compile(model, fullgraph=True)
    ours = torch.autograd.grad(compiled(ids).square().sum(), list(model.parameters()))
    assert calls == []
    for mine, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, reference, atol=2e-4, rtol=1e-3)


def test_a_target_outside_the_vocabulary_is_an_error_and_touches_no_memory() -> None:
    for target in (-1, 48):
        with pytest.raises(IndexError, match="outside the vocabulary of 48"):
            native.cross_entropy_(torch.zeros(2, 48), torch.tensor([0, target]), torch.ones(2))
        with pytest.raises(IndexError, match="outside the vocabulary of 48"):
            native.token_log_probs(torch.zeros(2, 48), torch.tensor([0, target]), 1.0)


def test_nothing_but_the_loss_is_made_where_no_gradient_is_asked() -> None:
    hidden, weight = random_tensor(5, 32).bfloat16(), random_tensor(48, 32, seed=1).requires_grad_()
    targets, weights = torch.arange(5), torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0])
    with torch.no_grad():
        alone = cross_entropy_sum(hidden, weight, targets, weights)
    torch.testing.assert_close(alone, cross_entropy_sum(hidden, weight, targets, weights).detach(), rtol=1e-5, atol=0)
