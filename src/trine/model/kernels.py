"""Operations written by hand because PyTorch composes them from many small passes on a CPU.

The docstring of each states its formula, and a test compares values and gradients with that formula. All accept any
dtype; statistics are computed in fp32 (fp64 for fp64 inputs). On a CPU, the operations that `training_kernels.py` has
in C++ are dispatched to it; the code here serves everything else.

Shapes: B batch, T time (queries), S time (keys), D width, H query heads, K key/value heads, d head_dim, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trine.model import training_kernels as native
from trine.model.training_library import LANES, usable
from trine.runtime.working_memory import empty

# With more keys than this, the memory of the [T, S] scores outweighs the time they save over the fused kernel.
MAX_MATERIALIZED_KEYS = 1024


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
        # `weight` is broadcast over the leading dimensions of x, so its gradient is summed over them.
        weight_gradient = product.flatten(0, -weight.dim() - 1).sum(0, dtype=exact)
        scale = (product * weight).sum(-1, keepdim=True, dtype=exact).div_(normalized.shape[-1])
        x_gradient = torch.addcmul(gradient * weight, normalized, scale.to(normalized.dtype), value=-1)
        return x_gradient.mul_(inverse), weight_gradient.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang & Sennrich 2019, eq. 4).

    `weight` is [D], or [H, D] with one row per head. The result has the dtype of `x`.
    """
    return _RmsNorm.apply(x, weight.to(x.dtype), epsilon)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias; `weight` [out, in] and `bias` [out] are cast to the dtype of `x`."""
    if native.linear_usable(x, weight):
        return native.linear(x, weight, bias)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class _Embedding(torch.autograd.Function):
    """PyTorch's embedding, except that its gradient [V, D] is allocated by `working_memory`."""

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
    """Rows `ids` [B, T] of `weight` [V, D]: [B, T, D]."""
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Embedding.apply(ids, weight)
    return F.embedding(ids, weight)


def add_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(x + delta, norm(x + delta)): LayerNorm (Ba et al. 2016), or RMSNorm without bias. `weight`, `bias` [D]."""
    if usable(x, x.shape[-1]) and weight.dtype == torch.float32:
        return native.add_norm(x, delta, weight, bias, epsilon)
    total = x if delta is None else x + delta
    if bias is None:
        return total, rms_norm(total, weight, epsilon)
    return total, F.layer_norm(total, total.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), epsilon)


def gelu(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks & Gimpel 2016), as in GPT-2."""
    if usable(x, x.shape[-1]):
        return native.gelu(x)
    return F.gelu(x, approximate="tanh")


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up, where `x` [..., 2 F] is gate and up concatenated (Shazeer 2020)."""
    if usable(x, x.shape[-1] // 2):
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
        rotated = (gradient * sin).roll(-(gradient.shape[-1] // 2), -1)
        return rotated.addcmul_(gradient, cos), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, eq. 34) in the half-split layout of Llama.

    x * cos + roll(x, d/2) * sin, with `x` [B, T, H, d] and `cos`, `sin` [B or 1, T, 1, d] from `rotary_table`; the
    first half of `sin` carries the minus sign of the rotation.
    """
    return _Rotate.apply(x, cos, sin)


def rotary_table(frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and signed sin for `positions` [..., T], each [..., T, 1, d], as `rotate` takes them.

    `frequencies` [d / 2] fp32: the rotation angle per position of each pair of dimensions.
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
    """Apply QK-norm and rotary embedding to queries and keys in `qkv` [B, T, H + 2 K, d]; values are unchanged.

    `scales`: RMSNorm weights [d] of queries and keys, or None; `rotary`: cos and sin of `rotate`, or None;
    `heads`: (H, K).
    """
    if scales is None and rotary is None:
        return qkv
    exact = scales is None or scales[0].dtype == torch.float32
    if usable(qkv, qkv.shape[-1], multiple=2 * LANES) and exact:
        return native.apply_rotary(qkv, None if scales is None else torch.stack(scales), rotary, heads, epsilon)
    query_key, value = qkv[:, :, : sum(heads)], qkv[:, :, sum(heads) :]  # [B, T, H + K, d], [B, T, K, d]
    if scales is not None:
        weight = torch.cat([scale.expand(count, -1) for scale, count in zip(scales, heads, strict=True)])  # [H + K, d]
        query_key = rms_norm(query_key, weight, epsilon)
    if rotary is not None:
        query_key = rotate(query_key, *rotary)
    return torch.cat((query_key, value), 2)


def has_native_attention(like: Tensor, head_dim: int) -> bool:
    """Whether `causal_attention` of tensors like this runs in C++, where no [B, T, T] bias is needed."""
    return usable(like, head_dim, multiple=2 * LANES)


def causal_attention(qkv: Tensor, starts: Tensor | None, heads: int, segments: Tensor | None = None) -> Tensor:
    """Causal self-attention of `qkv` [B, T, H + 2 K, d], [B, T, H d]; position t attends to starts[t] .. t.

    `starts` [B, T] int64, by default all 0; `heads` is H. With `segments` [B, T] instead, a position attends to the
    prompt of its row and to its own answer: 0 is the prompt, at the beginning; 1, 2, ... the answers, one after the
    other; -1 padding, behind them, where the result means nothing.
    """
    B, T, count, head_dim = qkv.shape  # noqa: N806
    if has_native_attention(qkv, head_dim):
        return native.causal_attention(qkv, starts, segments, heads)
    query, key, value = qkv.transpose(1, 2).split((heads, (count - heads) // 2, (count - heads) // 2), 1)
    bias = None if starts is None else starts_bias(starts, qkv.dtype)
    if segments is not None:
        bias = segments_bias(segments, qkv.dtype)
    return attention(query, key, value, bias).transpose(1, 2).reshape(B, T, heads * head_dim)


def segments_bias(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [B, T, T] of `causal_attention`'s segments: 0 where a position attends to, else -inf."""
    keys, length = segments.unsqueeze(1), segments.shape[1]
    seen = (keys == 0) | (keys == segments.unsqueeze(2))
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril_()
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill_(~(seen & causal), float("-inf"))


def starts_bias(starts: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [B, T, T]: 0 from starts[t] to t, -inf elsewhere."""
    places = torch.arange(starts.shape[1], device=starts.device)
    seen = (places >= starts.unsqueeze(2)) & (places <= places.unsqueeze(1))
    return torch.zeros(seen.shape, dtype=dtype, device=starts.device).masked_fill_(~seen, float("-inf"))


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(query key^T / sqrt(d) + bias) value (Vaswani et al. 2017, eq. 1).

    `query` [B, H, T, d]; `key`, `value` [B, K, S, d], K dividing H; `bias` [B or 1, T, S], or None for causal; the
    result is [B, H, T, d]. On a CPU, batched matrix products are 3 times faster than PyTorch's fused kernel for short
    rows (docs/LOG.md); long rows and GPUs use the fused kernel.
    """
    B, H, T, d = query.shape  # noqa: N806
    K, S = key.shape[1], key.shape[2]  # noqa: N806
    if query.device.type == "cpu" and S <= MAX_MATERIALIZED_KEYS:
        return _attention_by_products(query, key, value, bias)
    if T == 1 and K != H and bias is not None:
        # The query heads of a key head as its queries: the fused kernels that take a mask take no grouped heads.
        grouped = query.reshape(B, K, H // K, d)
        same = bias.unsqueeze(1).expand(B, 1, H // K, S)
        return F.scaled_dot_product_attention(grouped, key, value, attn_mask=same).reshape(B, H, 1, d)
    mask = None if bias is None else bias.unsqueeze(1).expand(B, 1, T, S)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=bias is None, enable_gqa=K != H)


def _attention_by_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    B, H, T, d = query.shape  # noqa: N806
    K, S = key.shape[1], key.shape[2]  # noqa: N806
    if bias is None:
        bias = causal_bias(T, query.dtype, query.device)
    # Stack the H / K query heads that share a key head, so that each key is read once.
    grouped = query.reshape(B * K, (H // K) * T, d)
    bias = bias.repeat(1, H // K, 1)  # [B or 1, (H / K) T, S]
    if len(bias) > 1:
        bias = bias.repeat_interleave(K, 0)  # [B K, (H / K) T, S]
    scores = torch.baddbmm(bias, grouped, key.reshape(B * K, S, d).mT, alpha=d**-0.5)  # [B K, (H / K) T, S]
    mixed = torch.bmm(scores.softmax(-1), value.reshape(B * K, S, d))
    return mixed.view(B, H, T, d)


def causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive causal mask [1, T, T]: -inf above the diagonal, 0 elsewhere."""
    return torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu_(1).unsqueeze(0)
