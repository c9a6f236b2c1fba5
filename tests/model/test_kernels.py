"""The hand-written operations against their plain formulas, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.model import kernels
from trine.model.kernels import attention, causal_bias, rms_norm, rotary_table, rotate


def doubles(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [random_tensor(*shape, seed=seed, dtype=torch.float64).requires_grad_() for seed, shape in enumerate(shapes)]


def assert_same(ours: Tensor, plain: Tensor, inputs: list[Tensor]) -> None:
    """Equal values and, for a random cotangent, equal gradients."""
    cotangent = random_tensor(*ours.shape, seed=9, dtype=ours.dtype)
    assert_close(ours, plain)
    for mine, reference in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(plain, inputs, cotangent), strict=True
    ):
        assert_close(mine, reference)


def plain_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight


def plain_rotation(x: Tensor, theta: float) -> Tensor:
    """Every pair (i, i + d/2) at position t turned by t theta^(-2i/d), as complex numbers."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequencies
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), -1)


def rotary(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    frequencies = theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    return rotary_table(frequencies, torch.arange(length)[None], torch.float64)


@pytest.mark.parametrize("weight_shape", [(6,), (4, 6)])
def test_rms_norm_equals_its_formula(weight_shape: tuple[int, ...]) -> None:
    x, weight = doubles((2, 3, 4, 6), weight_shape)
    assert_same(rms_norm(x, weight, 1e-2), plain_rms_norm(x, weight, 1e-2), [x, weight])


@pytest.mark.parametrize("weight_shape", [(6,), (4, 6)])
def test_rms_norm_passes_gradcheck(weight_shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-2), doubles((2, 4, 6), weight_shape))


def test_rms_norm_in_fp32_equals_its_formula_in_fp64() -> None:
    x, weight = (tensor.detach().float().requires_grad_() for tensor in doubles((5, 32), (32,)))
    assert_same(rms_norm(x, weight, 1e-6), plain_rms_norm(x.double(), weight.double(), 1e-6).float(), [x, weight])


def test_rms_norm_of_zeros_is_zero() -> None:
    assert not rms_norm(torch.zeros(2, 4), torch.ones(4), 1e-6).any()


def test_rotate_equals_turning_complex_numbers() -> None:
    (x,) = doubles((2, 5, 3, 8))
    assert_same(rotate(x, *_exact_table(5, 8, 100.0)), plain_rotation(x, 100.0), [x])


def _exact_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """The table by its docstring, in double precision."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = (torch.arange(length, dtype=torch.float64)[:, None] * frequencies)[None, :, None]
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)


def test_rotate_passes_gradcheck() -> None:
    table = rotary(3, 4, 10.0)
    assert torch.autograd.gradcheck(lambda x: rotate(x, *table), doubles((2, 3, 2, 4)))


def test_the_rotary_table_is_that_of_the_formula() -> None:
    for ours, exact in zip(rotary(64, 16, 10000.0), _exact_table(64, 16, 10000.0), strict=True):
        assert_close(ours, exact, atol=1e-5, rtol=0)


def test_rotation_makes_products_depend_on_distance_alone() -> None:
    query, key = (tensor.detach().expand(1, 8, 1, 8) for tensor in doubles((1, 1, 1, 8), (1, 1, 1, 8)))
    table = _exact_table(8, 8, 50.0)
    products = rotate(query, *table)[0, :, 0] @ rotate(key, *table)[0, :, 0].T
    for distance in range(8):
        diagonal = products.diagonal(-distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT / query.shape[-1] ** 0.5 + bias.unsqueeze(1)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("longest", [1024, 0], ids=["products", "fused"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("biased", ["causal", "one for all rows", "one per row"])
def test_attention_equals_its_formula(
    monkeypatch: pytest.MonkeyPatch, longest: int, kv_heads: int, biased: str
) -> None:
    monkeypatch.setattr(kernels, "MAX_MATERIALIZED_KEYS", longest)
    query, key, value = doubles((3, 4, 5, 6), (3, kv_heads, 5, 6), (3, kv_heads, 5, 6))
    bias = {
        "causal": None,
        "one for all rows": random_tensor(1, 5, 5, seed=5, dtype=torch.float64),
        "one per row": random_tensor(3, 5, 5, seed=6, dtype=torch.float64),
    }[biased]
    plain_bias = causal_bias(5, torch.float64, torch.device("cpu")) if bias is None else bias
    plain = plain_attention(query, key, value, plain_bias)
    assert_same(attention(query, key, value, bias), plain, [query, key, value])


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_by_products_equals_the_fused_kernel(kv_heads: int) -> None:
    query, key, value = doubles((2, 4, 7, 8), (2, kv_heads, 7, 8), (2, kv_heads, 7, 8))
    fused = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert_same(attention(query, key, value, None), fused, [query, key, value])


@pytest.mark.parametrize("longest", [1024, 0], ids=["products", "fused"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_one_query_over_many_keys_equals_its_formula(
    monkeypatch: pytest.MonkeyPatch, longest: int, kv_heads: int
) -> None:
    """A decoding step: rows of unequal length, their unused slots at -inf."""
    monkeypatch.setattr(kernels, "MAX_MATERIALIZED_KEYS", longest)
    query, key, value = doubles((2, 4, 1, 6), (2, kv_heads, 9, 6), (2, kv_heads, 9, 6))
    bias = torch.zeros(2, 1, 9, dtype=torch.float64)
    bias[0, :, 4:] = float("-inf")
    assert_same(attention(query, key, value, bias), plain_attention(query, key, value, bias), [query, key, value])


def test_attention_passes_gradcheck() -> None:
    inputs = doubles((1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    assert torch.autograd.gradcheck(lambda *tensors: attention(*tensors, None), inputs)


def test_the_causal_bias_hides_the_future_only() -> None:
    visible = causal_bias(3, torch.float32, torch.device("cpu"))[0] == 0
    assert visible.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
