"""C++ kernels of training on a CPU: each operation in one pass over memory.

PyTorch composes these operations from many passes over fp32 tensors, which took a quarter of a training step on two
cores (docs/LOG.md). Every function has a reference in `kernels.py`, which is used on other devices and dtypes, without
a compiler, under `torch.compile`, and in the tests that compare both. `kernels.py` calls `usable` and chooses.

Invariants: statistics and sums are fp32 for every dtype; the same input on the same number of threads gives the same
bits; the backward pass recomputes what one pass can recompute. In particular a linear layer does not save its input if
that is the output of a norm or an activation: the input carries a `Recipe` to recompute it.

Shapes: B batch, T time, D width, H query heads, K key/value heads, d head_dim, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trine.model import products
from trine.model.training_library import LANES, call, training_library, usable
from trine.runtime.working_memory import empty, empty_like

MIN_ROWS = 128


@dataclass(frozen=True)
class Recipe:
    """How to recompute a tensor bit for bit from `sources`, which are saved for the backward pass anyway."""

    make: Callable[..., Tensor]
    sources: tuple[Tensor | None, ...]
    version: int  # of the tensor; after an in-place change the recipe no longer applies


def _with_recipe(tensor: Tensor, make: Callable[..., Tensor], *sources: Tensor | None) -> Tensor:
    tensor.recipe = Recipe(make, sources, tensor._version)  # type: ignore[attr-defined]
    return tensor


def _recipe_of(tensor: Tensor) -> Recipe | None:
    """The recipe of `tensor`, or None if it must be saved itself; views do not inherit a recipe."""
    recipe: Recipe | None = getattr(tensor, "recipe", None)
    return recipe if recipe is not None and recipe.version == tensor._version else None


def _normed(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    total, out = x if delta is None else empty_like(x), empty_like(x)
    width = x.shape[-1]
    call("norm_forward", x.dtype, x, delta, total, out, weight, bias, x.numel() // width, width, epsilon)
    return total, out


def _recompute_norm(epsilon: float, total: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _normed(total, None, weight, bias, epsilon)[1]


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
    ) -> Any:
        x = x.contiguous()
        delta = None if delta is None else delta.contiguous()
        total, out = _normed(x, delta, weight, bias, epsilon)
        ctx.save_for_backward(total, weight)
        ctx.set_materialize_grads(False)
        ctx.epsilon, ctx.added, ctx.centred = epsilon, delta is not None, bias is not None
        return out if delta is None else (total, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        gradient, total_gradient = gradients[-1], gradients[0] if ctx.added else None
        if gradient is None:
            return total_gradient, total_gradient, None, None, None
        gradient = gradient.contiguous()
        outer = None if total_gradient is None else total_gradient.contiguous()
        x_gradient = empty_like(total)
        weight_gradient = empty_like(weight)
        bias_gradient = empty_like(weight) if ctx.centred else None
        rows, width = total.numel() // total.shape[-1], total.shape[-1]
        call(
            "norm_backward", total.dtype, gradient, outer, total, x_gradient, weight, weight_gradient, bias_gradient,
            rows, width, ctx.epsilon,
        )  # fmt: skip
        return x_gradient, x_gradient if ctx.added else None, weight_gradient, bias_gradient, None


def add_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """See `kernels.add_norm`."""
    x = x.contiguous()
    if delta is None:
        total, out = x, _AddNorm.apply(x, None, weight, bias, epsilon)
    else:
        total, out = _AddNorm.apply(x, delta, weight, bias, epsilon)
    return total, _with_recipe(out, partial(_recompute_norm, epsilon), total, weight, bias)


def _activated(name: str, x: Tensor) -> Tensor:
    gated = name == "swiglu"
    out = empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype) if gated else empty_like(x)
    call(f"{name}_forward", x.dtype, x, out, *_sizes(out, gated))
    return out


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.name = name
        return _activated(name, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        gradient, x_gradient = gradient.contiguous(), empty_like(x)
        call(f"{ctx.name}_backward", x.dtype, gradient, x, x_gradient, *_sizes(gradient, ctx.name == "swiglu"))
        return x_gradient, None


def _sizes(out: Tensor, gated: bool) -> tuple[int, ...]:
    return (out.numel() // out.shape[-1], out.shape[-1]) if gated else (out.numel(),)


def _activation(name: str, x: Tensor) -> Tensor:
    x = x.contiguous()
    return _with_recipe(_Activation.apply(x, name), partial(_activated, name), x)


def gelu(x: Tensor) -> Tensor:
    """See `kernels.gelu`."""
    return _activation("gelu", x)


def swiglu(x: Tensor) -> Tensor:
    """See `kernels.swiglu`."""
    return _activation("swiglu", x)


class _ApplyRotary(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, qkv: Tensor, scales: Tensor | None, cos: Tensor | None, sin: Tensor | None, heads: tuple[int, int],
        epsilon: float,
    ) -> Tensor:  # fmt: skip
        qkv, out = qkv.contiguous(), empty_like(qkv)
        cos, sin = (None if table is None else table.contiguous() for table in (cos, sin))
        rows, count, head_dim = qkv.shape[0] * qkv.shape[1], qkv.shape[2], qkv.shape[3]
        table_rows = 1 if cos is None else cos.numel() // head_dim
        sizes = torch.tensor([rows, *heads, count - sum(heads), head_dim, table_rows])
        call("rotary_forward", qkv.dtype, qkv, out, scales, cos, sin, sizes, epsilon)
        ctx.save_for_backward(qkv, scales, cos, sin, sizes)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        qkv, scales, cos, sin, sizes = ctx.saved_tensors
        gradient = empty_like(gradient).copy_(gradient)
        scales_gradient = torch.empty(2, qkv.shape[-1]) if scales is None else empty_like(scales)
        call(
            "rotary_backward", qkv.dtype, qkv, gradient, scales, scales_gradient, cos, sin, sizes, ctx.epsilon
        )  # fmt: skip
        return gradient, None if scales is None else scales_gradient, None, None, None, None


def apply_rotary(
    qkv: Tensor,
    scales: Tensor | None,
    rotary: tuple[Tensor, Tensor] | None,
    heads: tuple[int, int],
    epsilon: float,
) -> Tensor:
    """See `kernels.apply_rotary`; `scales` [2, d], fp32, are the norm weights of queries and of keys."""
    cos, sin = rotary or (None, None)
    return _ApplyRotary.apply(qkv, scales, cos, sin, heads, epsilon)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, qkv: Tensor, starts: Tensor | None, segments: Tensor | None, heads: int
    ) -> Tensor:
        qkv = qkv.contiguous()
        B, T, count, head_dim = qkv.shape  # noqa: N806
        seen = [None if each is None else each.to(torch.int64).expand(B, T).contiguous() for each in (starts, segments)]
        sizes = torch.tensor([B, T, heads, (count - heads) // 2, head_dim], device="cpu")
        out = empty((B, T, heads * head_dim), qkv.dtype)
        log_sums = torch.empty(B, heads, T, dtype=torch.float32, device="cpu")  # log sum exp of each row of scores
        call("attention_forward", qkv.dtype, qkv, *seen, out, log_sums, sizes)
        ctx.save_for_backward(qkv, *seen, out, log_sums, sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, starts, segments, out, log_sums, sizes = ctx.saved_tensors
        gradient, qkv_gradient = gradient.contiguous(), empty_like(qkv)
        call("attention_backward", qkv.dtype, qkv, starts, segments, out, gradient, log_sums, qkv_gradient, sizes)
        return qkv_gradient, None, None, None


def causal_attention(qkv: Tensor, starts: Tensor | None, segments: Tensor | None, heads: int) -> Tensor:
    """See `kernels.causal_attention`."""
    return _CausalAttention.apply(qkv, starts, segments, heads)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, recipe: Recipe | None
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        outputs, inputs = weight.shape
        out = empty((*x.shape[:-1], outputs), x.dtype)
        products.forward(x.view(-1, inputs), weight, bias, out.view(-1, outputs))
        ctx.save_for_backward(weight, *((x,) if recipe is None else recipe.sources))
        ctx.make = recipe and recipe.make
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *sources = ctx.saved_tensors
        outputs, inputs = weight.shape
        gradient = gradient.contiguous()
        rows = gradient.view(-1, outputs)
        x_wanted, weight_wanted, bias_wanted = ctx.needs_input_grad[:3]
        weight_gradient = empty_like(weight) if weight_wanted else None
        bias_gradient = empty_like(weight[:, 0]) if bias_wanted else None
        if bias_gradient is not None:
            products.bias_gradient(rows, bias_gradient)
        if (
            weight_gradient is not None
        ):  # first, because it may recompute x, which is freed before x_gradient is allocated
            x = ctx.make(*sources) if ctx.make else sources[0]
            products.weight_gradient(rows, x.view(-1, inputs), weight_gradient)
            del x
        x_gradient = empty((*gradient.shape[:-1], inputs), gradient.dtype) if x_wanted else None
        if x_gradient is not None:
            products.input_gradient(rows, weight, x_gradient.view(-1, inputs))
        return x_gradient, weight_gradient, bias_gradient, None


def linear_usable(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` supports these and is faster than PyTorch: packing the weight pays off from MIN_ROWS rows.

    Within `products.row_invariant` that it supports them is enough.
    """
    outputs, inputs = weight.shape
    few = x.numel() < MIN_ROWS * inputs and not products.is_row_invariant()
    if weight.dtype != torch.float32 or few:
        return False
    library = training_library() if usable(x, inputs, 2 * outputs, multiple=2 * LANES) else None
    return library is not None and (x.dtype == torch.float32 or bool(library.trine_has_fast_products()))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels.linear`; for fp32 weights, whose gradients are accumulated in fp32."""
    return _Linear.apply(x, weight, bias, _recipe_of(x))


def cross_entropy_(logits: Tensor, targets: Tensor, scales: Tensor) -> Tensor:
    """Losses [N] fp64: scale * -log softmax(logits)[target]. `logits` [N, V] are overwritten by their gradient."""
    targets = _checked_targets(logits, targets)
    losses = torch.empty(len(logits), dtype=torch.float64, device="cpu")
    call("cross_entropy", logits.dtype, logits, targets, scales.contiguous(), losses, *logits.shape)
    return losses


def token_log_probs(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """See `text_log_probs.log_probs_and_entropies`."""
    targets = _checked_targets(logits, targets)
    log_probs, entropies, largest, totals = torch.empty(4, len(logits), dtype=torch.float32, device="cpu")
    call(
        "token_log_probs_forward", logits.dtype, logits, targets, log_probs, entropies, largest, totals, *logits.shape,
        1 / temperature,
    )  # fmt: skip
    return log_probs, entropies, largest, totals


def token_log_probs_gradient_(
    logits: Tensor, targets: Tensor, found: tuple[Tensor, ...], outer: tuple[Tensor, Tensor], temperature: float
) -> None:
    """`logits` are overwritten by their gradient; see `text_log_probs.token_log_probs_gradient`."""
    entropies, largest, totals = (each.contiguous() for each in found)
    call(
        "token_log_probs_backward", logits.dtype, logits, targets.contiguous(), largest, totals, entropies,
        *(each.contiguous() for each in outer), *logits.shape, 1 / temperature,
    )  # fmt: skip


def _checked_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Contiguous; the kernels read and write where a target says."""
    if targets.dtype != torch.int64 or not logits.is_contiguous():
        raise ValueError(f"int64 targets and contiguous logits are needed, found {targets.dtype}")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
        raise IndexError(
            f"a target is outside the vocabulary of {logits.shape[1]}: {int(targets.min())} .. {int(targets.max())}"
        )
    return targets.contiguous()
