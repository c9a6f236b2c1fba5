"""Conversion of tensors between GGUF and Hugging Face: names and storage order.

Two things differ besides the names. GPT-2's matrices are [in, out] in Hugging Face folders and [out, in] in GGUF. And
in Llama, llama.cpp applies rotary positions to adjacent pairs of a head's dimensions, Hugging Face to its two halves,
so the rows of q and k are in a different order (ggml-org/llama.cpp, `LlamaModel.permute`).
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray
from torch import Tensor

from trine.model.folder import refuse_non_finite
from trine.model.gguf.container import Container
from trine.model.gguf.tables import ROPE_FACTORS, SMALL_NAMES, Architecture
from trine.model.weight_files import StoredDtype
from trine.runtime.errors import TrineError

GgufDtype = Literal["float32", "float16", "bfloat16", "q8_0"]
TYPES: dict[GgufDtype, GGMLQuantizationType] = {
    "float32": GGMLQuantizationType.F32,
    "float16": GGMLQuantizationType.F16,
    "bfloat16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
_Q8_BLOCK = 32
_MAX_FLOAT16 = float(np.finfo(np.float16).max)
# The lossless dtype of a Hugging Face folder for tensors of a type; quantised ones need fp32.
_KEPT_AS: dict[GGMLQuantizationType, StoredDtype] = {
    GGMLQuantizationType.F16: "float16",
    GGMLQuantizationType.BF16: "bfloat16",
}


def read_weights(container: Container, table: Architecture, heads: dict[str, int], layers: int) -> dict[str, Tensor]:
    """Every tensor as fp32 under its Hugging Face name. `heads` counts the heads of `attn_q` and `attn_k`."""
    names = table.names(layers)
    unknown = container.tensors.keys() - names.keys() - {ROPE_FACTORS}
    if unknown:
        container.refuse(f"tensors {sorted(unknown)[:5]}", "are not part of the model")
    weights = {}
    for theirs, info in container.tensors.items():
        if theirs == ROPE_FACTORS:
            continue
        tensor = torch.from_numpy(container.read(theirs))
        refuse_non_finite(theirs, tensor, str(container.path))
        if theirs.endswith(table.transposed) and tensor.dim() == 2:
            tensor = tensor.T.contiguous()
        elif theirs.endswith(table.interleaved):
            count = heads[_part(theirs)]
            if info.shape[0] % (2 * count):
                container.refuse(f"tensor {theirs}", f"has {info.shape[0]} rows, not a multiple of {count} heads")
            tensor = pairs_to_halves(tensor, count)
        weights[names[theirs]] = tensor
    return weights


def stored_dtype(container: Container) -> StoredDtype:
    """The smallest dtype that is lossless for every matrix of the file."""
    kinds = {info.type for info in container.tensors.values() if len(info.shape) > 1}
    return _KEPT_AS.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def gguf_weights(
    weights: dict[str, Tensor], table: Architecture, heads: dict[str, int], layers: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield (GGUF name, fp32 tensor in GGUF's order) of Hugging Face weights, in the order of the table."""
    for theirs, ours in table.names(layers).items():
        if ours not in weights:
            continue
        tensor = weights[ours].detach().cpu().float()
        if theirs.endswith(table.transposed):
            tensor = tensor.T
        elif theirs.endswith(table.interleaved):
            tensor = halves_to_pairs(tensor, heads[_part(theirs)])
        yield theirs, tensor.contiguous()


def pairs_to_halves(tensor: Tensor, heads: int) -> Tensor:
    """Reorder the rows [heads * d, ...] of each head from adjacent pairs (0, d/2, 1, d/2 + 1, ...) to two halves."""
    rows = tensor.shape[0] // heads // 2
    return tensor.view(heads, rows, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def halves_to_pairs(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `pairs_to_halves`."""
    rows = tensor.shape[0] // heads // 2
    return tensor.view(heads, 2, rows, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def stored_type(name: str, shape: tuple[int, ...], dtype: GgufDtype) -> GGMLQuantizationType:
    """The type of a stored tensor: vectors and SMALL_NAMES in fp32; fp16 if the rows do not fit blocks of Q8_0."""
    if len(shape) < 2 or name.startswith(SMALL_NAMES):
        return GGMLQuantizationType.F32
    if dtype == "q8_0" and shape[-1] % _Q8_BLOCK:
        return GGMLQuantizationType.F16
    return TYPES[dtype]


def stored_shape(shape: tuple[int, ...], kind: GGMLQuantizationType) -> tuple[int, ...]:
    """The shape in bytes."""
    return tuple(quant_shape_to_byte_shape(shape, kind))


def stored(name: str, tensor: Tensor, kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """The bytes of `tensor`; raises `TrineError` if a value exceeds the range of fp16."""
    if kind == GGMLQuantizationType.F16 and float(tensor.abs().max()) > _MAX_FLOAT16:
        raise TrineError(f"tensor {name} holds values beyond float16's {_MAX_FLOAT16:.0f}; choose --dtype bfloat16")
    return np.ascontiguousarray(quantize(tensor.numpy(), kind)).view(np.uint8)


def _part(name: str) -> str:
    return name.split(".")[-2]


def attention_heads(config: dict[str, Any]) -> dict[str, int]:
    """Number of heads of `attn_q` and `attn_k`; empty for GPT-2, where they are one matrix."""
    keys = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    return {part: config[key] for part, key in keys.items() if key in config}
