"""The few operations worth writing by hand: on a CPU, PyTorch composes them from many small passes.

Each has a plain formula in its docstring, and a test that holds it to that formula in values and gradients.
All take any dtype; statistics are computed in fp32, or in fp64 where that is what comes in. On a CPU those that
`training_kernels.py` has in C++ go there; the formulas here serve everything else.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trine.model import training_kernels as native
from trine.runtime.working_memory import empty

# Above this many keys the T x T score matrix costs more memory than the fused kernel costs time.
LONGEST_MATERIALIZED_SCORES = 1024


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # type: ignore[no-untyped-def,override]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_at_least_fp32(x.dtype))
        inverse = (norm.square_().div_(x.shape[-1]).add_(epsilon)).rsqrt_().to(x.dtype)
        normalized = x * inverse
        ctx.save_for_backward(normalized, inverse, weight)
        return normalized * weight

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def,override]
        normalized, inverse, weight = ctx.saved_tensors
        product = gradient * normalized
        exact = _at_least_fp32(product.dtype)
        # weight may have fewer leading dimensions than x: sum over those it was broadcast along.
        weight_gradient = product.flatten(0, -weight.dim() - 1).sum(0, dtype=exact)
        scale = (product * weight).sum(-1, keepdim=True, dtype=exact).div_(normalized.shape[-1])
        x_gradient = torch.addcmul(gradient * weight, normalized, scale.to(normalized.dtype), value=-1)
        return x_gradient.mul_(inverse), weight_gradient.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang & Sennrich 2019, eq. 4).

    `weight` is [D], or [H, D] where every head has its own. Same dtype as `x`.
    """
    return _RmsNorm.apply(x, weight.to(x.dtype), epsilon)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias in `x`'s dtype, whatever that of the weight [out, in]."""
    if native.linear_usable(x, weight):
        return native.linear(x, weight, bias)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class _Embedding(torch.autograd.Function):
    """PyTorch's own, but for where its gradient, as large as the table, lies."""

    @staticmethod
    def forward(ctx, ids: Tensor, weight: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def,override]
        (ids,) = ctx.saved_tensors
        total = empty(ctx.shape, gradient.dtype).zero_()
        return None, total.index_add_(0, ids.flatten(), gradient.flatten(0, -2))


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """The rows of `weight` [V, D] that `ids` name."""
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Embedding.apply(ids, weight)
    return F.embedding(ids, weight)


def add_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """x + delta, and its LayerNorm (Ba et al. 2016), or its RMSNorm where there is no bias; `weight`, `bias` [D]."""
    if native.usable(x, x.shape[-1]) and weight.dtype == torch.float32:
        return native.add_norm(x, delta, weight, bias, epsilon)
    total = x if delta is None else x + delta
    if bias is None:
        return total, rms_norm(total, weight, epsilon)
    return total, F.layer_norm(total, total.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), epsilon)


def gelu(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks & Gimpel 2016), as GPT-2 has it."""
    if native.usable(x, x.shape[-1]):
        return native.gelu(x)
    return F.gelu(x, approximate="tanh")


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of `x` [..., 2 F], gate and up beside each other (Shazeer 2020)."""
    if native.usable(x, x.shape[-1] // 2):
        return native.swiglu(x)
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def,override]
        cos, sin = ctx.saved_tensors
        turned = (gradient * sin).roll(-(gradient.shape[-1] // 2), -1)
        return turned.addcmul_(gradient, cos), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, eq. 34) in the half-split layout of Llama.

    `x` [B, T, H, d]; `cos`, `sin` [B or 1, T, 1, d] from `rotary_table`: x * cos + roll(x, d/2) * sin,
    the sign of the rotation lying in the first half of `sin`.
    """
    return _Rotate.apply(x, cos, sin)


def rotary_table(frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sign-carrying sin for `positions` [..., T] as [..., T, 1, head_dim].

    `frequencies` [head_dim / 2], fp32: the angle by which each pair of dimensions turns per position.
    """
    angles = positions.float().unsqueeze(-1) * frequencies  # [..., T, d/2]
    cos, sin = angles.cos(), angles.sin()
    cos_table = torch.cat((cos, cos), -1).unsqueeze(-2).to(dtype)
    return cos_table, torch.cat((-sin, sin), -1).unsqueeze(-2).to(dtype)


def apply_rotary(
    qkv: Tensor,
    scales: tuple[Tensor, Tensor] | None,
    rotary: tuple[Tensor, Tensor] | None,
    heads: tuple[int, int],
    epsilon: float,
) -> Tensor:
    """QK-norm and rotation of queries and keys in `qkv` [B, T, H + 2 K, d]; values pass unchanged.

    `scales`: RMSNorm weights [d] of queries and of keys, or None; `rotary`: the tables of `rotate`, or None;
    `heads`: H and K.
    """
    if scales is None and rotary is None:
        return qkv
    exact = scales is None or scales[0].dtype == torch.float32
    if native.usable(qkv, qkv.shape[-1], multiple=2 * native.LANES) and exact:
        return native.apply_rotary(qkv, None if scales is None else torch.stack(scales), rotary, heads, epsilon)
    turned, value = qkv[:, :, : sum(heads)], qkv[:, :, sum(heads) :]
    if scales is not None:
        weight = torch.cat([scale.expand(count, -1) for scale, count in zip(scales, heads, strict=True)])
        turned = rms_norm(turned, weight, epsilon)
    if rotary is not None:
        turned = rotate(turned, *rotary)
    return torch.cat((turned, value), 2)


def attends_natively(like: Tensor, head_dim: int) -> bool:
    """Whether `causal_attention` of such tensors is the C++ one, which needs no [B, T, T] bias."""
    return like.dtype == torch.bfloat16 and native.usable(like, head_dim, multiple=2 * native.LANES)


def causal_attention(qkv: Tensor, starts: Tensor | None, heads: int) -> Tensor:
    """Attention of `qkv` [B, T, H + 2 K, d] over itself, [B, T, H d]: position t sees the positions starts[t] .. t.

    `starts` [B, T] int64, all 0 by default; `heads` is H.
    """
    B, T, count, head_dim = qkv.shape  # noqa: N806
    if attends_natively(qkv, head_dim):
        return native.causal_attention(qkv, starts, heads)
    query, key, value = qkv.transpose(1, 2).split((heads, (count - heads) // 2, (count - heads) // 2), 1)
    bias = None if starts is None else starts_bias(starts, qkv.dtype)
    return attention(query, key, value, bias).transpose(1, 2).reshape(B, T, heads * head_dim)


def starts_bias(starts: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T, T] additive attention bias: 0 from starts[t] to t, -inf elsewhere."""
    places = torch.arange(starts.shape[1], device=starts.device)
    seen = (places >= starts.unsqueeze(2)) & (places <= places.unsqueeze(1))
    return torch.zeros(seen.shape, dtype=dtype, device=starts.device).masked_fill_(~seen, float("-inf"))


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(query key^T / sqrt(d) + bias) value (Vaswani et al. 2017, eq. 1).

    `query` [B, H, T, d]; `key`, `value` [B, K, S, d] with K dividing H; `bias` [B or 1, T, S] additive, or None for
    causal. On a CPU, short rows go through batched matrix products: 3 times faster than the fused kernel there
    (docs/LOG.md), which serves long rows and GPUs.
    """
    B, H, T, _ = query.shape  # noqa: N806
    if query.device.type == "cpu" and key.shape[2] <= LONGEST_MATERIALIZED_SCORES:
        return _attention_by_products(query, key, value, bias)
    mask = None if bias is None else bias.unsqueeze(1).expand(B, 1, T, key.shape[2])
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=bias is None, enable_gqa=key.shape[1] != H
    )


def _attention_by_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    B, H, T, d = query.shape  # noqa: N806
    K, S = key.shape[1], key.shape[2]  # noqa: N806
    if bias is None:
        bias = causal_bias(T, query.dtype, query.device)
    # The query heads that share a key head stand one below the other, so that each key is read once.
    grouped = query.reshape(B * K, (H // K) * T, d)
    bias = bias.repeat(1, H // K, 1)
    if len(bias) > 1:
        bias = bias.repeat_interleave(K, 0)
    scores = torch.baddbmm(bias, grouped, key.reshape(B * K, S, d).mT, alpha=d**-0.5)
    mixed = torch.bmm(scores.softmax(-1), value.reshape(B * K, S, d))
    return mixed.view(B, H, T, d)


def causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, T, T]: 0 where a position may look, -inf above the diagonal."""
    return torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu_(1).unsqueeze(0)
