"""Log-probabilities and cross-entropy from hidden states, a chunk of rows at a time.

The logits of a batch, [B, T, V] in fp32, would be the largest tensor of a training step; here only [CHUNK_ROWS, V]
exist at a time, in the forward and the backward pass; of token log-probabilities those that take `KEPT_BYTES` at most
are kept in between. Results are sums or per-token values: the training loop divides by the count. Shapes: N rows
(tokens), D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.masked import sum_dtype
from trine.model import products, training_kernels
from trine.model.training_library import usable
from trine.runtime.working_memory import empty, empty_like

CHUNK_ROWS = 1024
KEPT_BYTES = 64 << 20
"""Logits of a micro-batch that are kept between the passes, if they are all of them."""
PRODUCT_ROWS = 4096  # rows in each product of the gradient of the output weight


class _CrossEntropySum(torch.autograd.Function):
    """Computes gradients in the forward pass, while the logits of a chunk are in memory."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor) -> Tensor:  # type: ignore[override]
        weight_cast = _cast(weight, hidden.dtype)
        hidden_gradient = empty_like(hidden)
        weight_gradient: Tensor | None = None
        total = torch.zeros((), dtype=sum_dtype(hidden), device=hidden.device)
        for start in range(0, len(hidden), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = _logits(hidden[rows], weight_cast)
            losses, gradient = cross_entropy_and_gradient(logits, targets[rows], row_weights[rows])
            total += losses.sum(dtype=total.dtype)
            _input_gradient(gradient, weight_cast, hidden_gradient[rows])
            if ctx.needs_input_grad[1]:  # False if the weight is frozen, as with LoRA
                weight_gradient = _add_product(weight_gradient, gradient.mT, hidden[rows])
            del gradient  # free it before the next chunk
        if weight_gradient is None and ctx.needs_input_grad[1]:  # no rows
            weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0]
        return (
            hidden_gradient * scale,  # a scalar: multiplying does not change the dtype
            # In place, because it is [V, D]; a second backward pass is refused by PyTorch.
            None if weight_gradient is None else weight_gradient.mul_(scale.to(torch.float32)).to(ctx.weight_dtype),
            None,
            None,
        )


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight if weight.dtype == dtype else empty(weight.shape, dtype, weight.device).copy_(weight)


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden weight^T, of one dtype."""
    if training_kernels.linear_usable(hidden, weight):
        logits = empty((len(hidden), len(weight)), hidden.dtype)
        products.forward(hidden.contiguous(), weight.contiguous(), None, logits)
        return logits
    return _product(hidden, weight.mT)


def _input_gradient(gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    """out = gradient weight, of one dtype."""
    if training_kernels.linear_usable(out, weight):
        products.input_gradient(gradient.contiguous(), weight.contiguous(), out)
    else:
        torch.mm(gradient, weight, out=out)


def _product(left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right, out=empty((left.shape[0], right.shape[1]), left.dtype, left.device))


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right in fp32, in place; None is 0."""
    if total is None:
        total = empty((left.shape[0], right.shape[1]), torch.float32, left.device).zero_()
    if left.dtype == total.dtype:
        return total.addmm_(left, right)
    for start in range(0, len(left), PRODUCT_ROWS):
        rows = slice(start, start + PRODUCT_ROWS)
        total[rows] += _product(left[rows], right)
    return total


def cross_entropy_and_gradient(logits: Tensor, targets: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [N], scale * -log softmax(logits)[target], and their gradient [N, V]; `logits` may be overwritten."""
    if usable(logits) and scales.dtype == torch.float32:
        return training_kernels.cross_entropy_(logits, targets, scales), logits
    log_probs = torch.log_softmax(logits, -1, dtype=torch.float32)
    target, scale = targets.unsqueeze(1), scales.unsqueeze(1)
    losses = log_probs.gather(1, target).mul(-scale).squeeze(1)
    gradient = log_probs.exp_().mul_(scale)
    gradient.scatter_add_(1, target, -scale)
    return losses, gradient.to(logits.dtype)


def cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor) -> Tensor:
    """Sum over rows of row_weight * -log softmax(hidden weight^T)[target], in nats; a float64 scalar.

    `hidden` [N, D], `weight` [V, D], `targets` [N] int64, `row_weights` [N] fp32 (0 excludes a row). Equals the
    computation with full logits in value and gradient (tested). Under torch.no_grad only the loss is computed.
    """
    if not torch.is_grad_enabled():
        losses = -target_log_probs(hidden, weight, targets) * row_weights
        return losses.sum(dtype=sum_dtype(hidden))
    return _CrossEntropySum.apply(hidden, weight, targets, row_weights)


class _TokenLogProbs(torch.autograd.Function):
    """Up to `KEPT_BYTES` the logits are kept for the backward pass, beyond recomputed there: the bits are the same."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Any:  # type: ignore[override]
        weight_cast = _cast(weight, hidden.dtype)
        kept: list[Tensor] | None = []
        if len(hidden) * len(weight) * hidden.element_size() > KEPT_BYTES:
            kept = None
        parts = []
        for rows in _chunks(hidden):
            logits = _logits(hidden[rows], weight_cast)
            parts.append(log_probs_and_entropies(logits, targets[rows], temperature))
            if kept is not None:
                kept.append(logits)
        log_probs, entropies, largest, totals = _joined(parts, hidden)
        ctx.save_for_backward(hidden, weight, targets, entropies, largest, totals)
        ctx.kept, ctx.temperature = kept, temperature
        return log_probs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, *found = ctx.saved_tensors
        weight_cast = _cast(weight, hidden.dtype)
        hidden_gradient = empty_like(hidden)
        kept, ctx.kept = ctx.kept, None  # overwritten here; a second backward pass recomputes them
        weight_gradient: Tensor | None = None
        for number, rows in enumerate(_chunks(hidden)):
            logits = _logits(hidden[rows], weight_cast) if kept is None else kept[number]
            of_chunk = tuple(each[rows] for each in found)
            outer = gradients[0][rows], gradients[1][rows]
            gradient = token_log_probs_gradient(logits, targets[rows], of_chunk, outer, ctx.temperature)
            _input_gradient(gradient, weight_cast, hidden_gradient[rows])
            if ctx.needs_input_grad[1]:
                weight_gradient = _add_product(weight_gradient, gradient.mT, hidden[rows])
        if weight_gradient is None and ctx.needs_input_grad[1]:  # no rows
            weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        return hidden_gradient, None if weight_gradient is None else weight_gradient.to(weight.dtype), None, None


def _chunks(hidden: Tensor) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, len(hidden), CHUNK_ROWS))


def _joined(parts: Sequence[tuple[Tensor, ...]], hidden: Tensor) -> list[Tensor]:
    """What `log_probs_and_entropies` found for each chunk, of all rows."""
    if not parts:
        return [torch.empty(0, dtype=torch.float32, device=hidden.device) for _ in range(4)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def log_probs_and_entropies(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """Of p = softmax(logits / temperature), each [N] fp32: log p(target), entropy, and what its gradient needs: the
    largest of logits / temperature, and the sum of exp(logits / temperature - largest)."""
    if usable(logits):
        return training_kernels.token_log_probs(logits, targets, temperature)
    scaled = logits.float().div(temperature)
    largest = scaled.amax(1)
    below = scaled - largest.unsqueeze(1)
    totals = below.exp().sum(1)
    log_probs = below - totals.log().unsqueeze(1)
    target = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    return target, torch.special.entr(log_probs.exp()).sum(1), largest, totals


def token_log_probs_gradient(
    logits: Tensor, targets: Tensor, found: tuple[Tensor, ...], outer: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """The gradient [N, V] of `logits`, which may be overwritten.

    `found`: entropies, largest, totals of `log_probs_and_entropies`; `outer`: the gradients of log-probabilities and
    entropies [N]. d log p(target) / d logits = (onehot - p) / temperature; d entropy / d logits = -p (log p + entropy)
    / temperature.
    """
    if usable(logits):
        training_kernels.token_log_probs_gradient_(logits, targets, found, outer, temperature)
        return logits
    entropies, largest, totals, of_log_prob, of_entropy = (each.unsqueeze(1) for each in (*found, *outer))
    log_probs = logits.float().div(temperature).sub_(largest).sub_(totals.log())
    gradient = -log_probs.exp() * (of_log_prob + of_entropy * log_probs.clamp(min=-1e30).add_(entropies))
    return gradient.scatter_add_(1, targets.unsqueeze(1), of_log_prob).div_(temperature).to(logits.dtype)


@torch.no_grad()
def target_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """`token_log_probs` without gradient and entropy, for a frozen model such as the reference; [N] fp32."""
    weight_cast = _cast(weight, hidden.dtype)
    parts = [
        log_probs_and_entropies(_logits(hidden[rows], weight_cast), targets[rows], temperature)
        for rows in _chunks(hidden)
    ]
    return _joined(parts, hidden)[0]


def token_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log softmax(hidden weight^T / temperature)[target] and the entropy of that distribution, both [N] fp32, nats.

    `hidden` [N, D], `weight` [V, D], `targets` [N] int64. Both results are differentiable with respect to hidden and
    weight.
    """
    log_probs, entropy = _TokenLogProbs.apply(hidden, weight, targets, temperature)
    return log_probs, entropy
