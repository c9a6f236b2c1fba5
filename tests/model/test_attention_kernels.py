"""Attention in C++ against the plain formulas in fp64; and to the bit, wherever in a row an answer stands."""

import pytest
import torch
from torch import Tensor

from tests.model import test_training_kernels
from tests.model.test_training_kernels import assert_equal_to_plain, dtypes, error, starts_of
from tests.tiny import random_tensor
from trine.model import kernels

library, threads, calls = (getattr(test_training_kernels, name) for name in ("library", "threads", "calls"))


@dtypes
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("time", [1, 17, 32, 77])
@pytest.mark.parametrize("head_dim", [32, 96])
def test_causal_attention(
    dtype: torch.dtype, kv_heads: int, time: int, head_dim: int, threads: int, calls: list[str]
) -> None:
    qkv = random_tensor(2, time, 4 + 2 * kv_heads, head_dim, seed=1).to(dtype)
    assert_equal_to_plain(lambda x: kernels.causal_attention(x, None, 4), [qkv], dtype)
    assert set(calls) == {"attention_forward", "attention_backward"}


@dtypes
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_causal_attention_within_documents(dtype: torch.dtype, kv_heads: int, threads: int) -> None:
    qkv = random_tensor(2, 77, 2 + 2 * kv_heads, 64, seed=1).to(dtype)
    starts = starts_of([40, 1, 1, 35], [5, 64, 8])
    assert_equal_to_plain(lambda x: kernels.causal_attention(x, starts, 2), [qkv], dtype)


def test_documents_in_one_row_are_those_documents_alone() -> None:
    qkv = random_tensor(1, 50, 6, 32, seed=1).bfloat16()
    packed = kernels.causal_attention(qkv, starts_of([18, 32]), 2)
    for part in (slice(0, 18), slice(18, 50)):
        alone = kernels.causal_attention(qkv[:, part], None, 2)
        assert error(packed[:, part], alone) < 3e-3


def segments_of(*rows: list[int]) -> Tensor:
    """Rows of a prompt and its answers, given by their lengths, as segments."""
    width = max(map(sum, rows))
    return torch.tensor(
        [[place for place, length in enumerate(row) for _ in range(length)] + [-1] * (width - sum(row)) for row in rows]
    )


def read_by_segments(segments: Tensor, heads: int, x: Tensor) -> Tensor:
    """The attention of everything but padding, where it means nothing."""
    return kernels.causal_attention(x, None, heads, segments)[segments >= 0]


@dtypes
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(
    "rows", [([7, 3],), ([70, 33, 1, 64, 40], [5, 100, 2]), ([0, 17, 36],), ([32, 32, 31, 33], [1, 1, 1])]
)
@pytest.mark.parametrize("head_dim", [32, 96])
def test_answers_behind_one_prompt(
    dtype: torch.dtype, kv_heads: int, rows: tuple[list[int], ...], head_dim: int, threads: int, calls: list[str]
) -> None:
    segments = segments_of(*rows)
    qkv = random_tensor(*segments.shape, 4 + 2 * kv_heads, head_dim, seed=1).to(dtype)
    assert_equal_to_plain(lambda x: read_by_segments(segments, 4, x), [qkv], dtype)
    assert set(calls) == {"attention_forward", "attention_backward"}


@dtypes
def test_an_answer_gets_the_same_bits_wherever_behind_its_prompt_it_stands(dtype: torch.dtype) -> None:
    prompt, first, second, third = (random_tensor(1, n, 6, 32, seed=n).to(dtype) for n in (21, 50, 3, 37))
    cotangent = random_tensor(1, 37, 64, seed=4).to(dtype)

    def read(*before: Tensor) -> tuple[Tensor, Tensor]:
        """What the third answer gets, and its gradient."""
        x = torch.cat((prompt, *before, third), 1).requires_grad_()
        segments = segments_of([each.shape[1] for each in (prompt, *before, third)])
        out = kernels.causal_attention(x, None, 2, segments)[:, -37:]
        return out, torch.autograd.grad(out, x, cotangent)[0][:, -37:]

    alone = read()
    for others in ((second,), (first, second), (second, first)):
        assert all(map(torch.equal, read(*others), alone))


def test_an_answer_behind_a_prompt_is_the_end_of_one_text() -> None:
    qkv = random_tensor(1, 90, 6, 32, seed=1)
    behind = kernels.causal_attention(qkv, None, 2, segments_of([40, 50]))
    assert error(behind, kernels.causal_attention(qkv, None, 2)) < 3e-6


def test_padding_gets_nothing_and_gives_nothing() -> None:
    qkv = random_tensor(2, 30, 6, 32, seed=1).requires_grad_()
    segments = segments_of([10, 20], [4, 6])
    out = kernels.causal_attention(qkv, None, 2, segments)
    (gradient,) = torch.autograd.grad(out.sum(), qkv)
    assert not out[1, 10:].any() and not gradient[1, 10:].any() and bool(out[1, :10].all())
