"""Memory in large pages: a decoding step reads every weight once, and 4 KiB pages make that slower.

The system hands out zeroed memory when it is first touched; where it has no large pages the request is ignored.
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes of a cache line


def large_zeros(count: int, dtype: torch.dtype) -> Tensor:
    """`count` zeros [count] in memory of their own."""
    size = max(1, count) * dtype.itemsize
    if hasattr(mmap, "MADV_HUGEPAGE"):
        room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without large pages
            room.madvise(mmap.MADV_HUGEPAGE)
    else:
        room = mmap.mmap(-1, size)
    return torch.frombuffer(room, dtype=dtype)


class Arena:
    """Tensors one behind the other in one stretch of memory."""

    def __init__(self, size: int) -> None:
        self._room = large_zeros(size, torch.uint8)
        self._used = 0

    def clear(self) -> None:
        """Begin again at the front; what was placed before is overwritten."""
        self._used = 0

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor`, flat."""
        start, size = self._used, tensor.numel() * tensor.itemsize
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        view = self._room[start : start + size].view(tensor.dtype)
        return view.copy_(tensor.flatten())
