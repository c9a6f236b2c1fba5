"""Tensors in the regions of `regions.py`: for what a training step makes and drops."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trine.runtime.regions import MAX_BYTES, MIN_BYTES, regions


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """`torch.empty`, large ones on a CPU in a region."""
    size = math.prod(shape) * dtype.itemsize
    places = regions() if size >= MIN_BYTES and (device is None or device.type == "cpu") else None
    view = places[size > MAX_BYTES].take(size) if places else None
    if view is None:
        return torch.empty(shape, dtype=dtype, device=device or "cpu")
    return torch.frombuffer(view, dtype=dtype).resize_(shape)


def empty_like(tensor: Tensor) -> Tensor:
    """A contiguous one."""
    return empty(tensor.shape, tensor.dtype, tensor.device)
