"""Short-lived tensors of a training step, allocated in the regions of `regions.py`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trine.runtime.regions import MAX_BYTES, MIN_BYTES, regions


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """`torch.empty`; a large CPU tensor is allocated in a region."""
    size = math.prod(shape) * dtype.itemsize
    both = regions() if size >= MIN_BYTES and (device is None or device.type == "cpu") else None
    view = both[size > MAX_BYTES].allocate(size) if both else None
    if view is None:
        return torch.empty(shape, dtype=dtype, device=device or "cpu")
    return torch.frombuffer(view, dtype=dtype).resize_(shape)


def empty_like(tensor: Tensor) -> Tensor:
    """`torch.empty_like`, always contiguous."""
    return empty(tensor.shape, tensor.dtype, tensor.device)
