"""Weights kept in fewer bits than they are computed with: int8 or bf16; activations stay as they are.

int8 has one factor for each output of a matrix (cf. Dettmers et al. 2022, sec. 2). A decoding step reads every weight
once: bf16 halves what it reads against fp32, int8 halves it again. Norms, biases and the token table that is looked up
stay. Where the processor multiplies bf16, what meets bf16 weights is rounded to bf16 too; int8 meets fp32.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

KeptWeights = Literal["compute", "bf16", "int8"]


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [N, K] as int8 [N, K] and factors [N] fp32, weight = int8 * factor to half a factor."""
    scale = weight.float().abs().amax(1) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (weight.float() / scale.unsqueeze(1)).round_().to(torch.int8), scale


def rounded_weights(weights: dict[str, Tensor], kept: KeptWeights) -> dict[str, Tensor]:
    """The weights of a plain Transformer as keeping them in `kept` leaves them: the reference of those kernels.

    With tied embeddings the output table is no parameter of its own, so it is returned as `head.weight`.
    """
    if kept == "compute":
        return weights
    rounded = _ROUNDED[kept]
    result = dict(weights)
    if "head.weight" not in weights:
        result["head.weight"] = weights["embedding.weight"]
    return {
        name: rounded(weight) if weight.dim() == 2 and "embedding" not in name else weight
        for name, weight in result.items()
    }


def _rounded_to_int8(weight: Tensor) -> Tensor:
    whole, scale = quantize(weight)
    return whole.float() * scale.unsqueeze(1)


_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "bf16": lambda weight: weight.bfloat16().float(),
    "int8": _rounded_to_int8,
}
