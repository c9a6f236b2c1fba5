"""Weight-only int8: one factor for each output of a matrix, activations as they are (cf. Dettmers et al. 2022, sec. 2).

Halves what a decoding step has to read, against bf16. Norms, biases and the token table that is looked up stay.
"""

import torch
from torch import Tensor


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [N, K] as int8 [N, K] and factors [N] fp32, weight = int8 * factor to half a factor."""
    scale = weight.float().abs().amax(1) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (weight.float() / scale.unsqueeze(1)).round_().to(torch.int8), scale


def rounded_to_int8(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a plain Transformer as int8 leaves them, in fp32: the reference of the int8 path.

    With tied embeddings the output table is no parameter of its own, so it is returned as `head.weight`.
    """
    result = dict(weights)
    if "head.weight" not in weights:
        result["head.weight"] = weights["embedding.weight"]
    for name, weight in result.items():
        if weight.dim() == 2 and "embedding" not in name:
            whole, scale = quantize(weight)
            result[name] = whole.float() * scale.unsqueeze(1)
    return result
