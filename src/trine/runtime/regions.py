"""A best-fit allocator for the large, short-lived tensors of a training step, beside malloc.

malloc places small long-lived objects between large short-lived ones, so its heap fragments: half of a step's memory
was holes. Here large tensors are allocated in reserved regions, each in the smallest hole where it fits, and adjacent
free blocks are merged. The largest tensors (those with a vocabulary dimension) have a region of their own, because
smaller ones would split the holes they leave. Pages stay with the process after first use, as with `allocator.py`. A
block is freed when the tensor's storage is, in whichever thread that happens.
"""

import mmap
import os
import sys
import weakref
from bisect import bisect
from collections import deque
from functools import cache
from threading import Lock

from trine.runtime.launch import launch

MIN_BYTES = 1 << 18  # smaller tensors are left to malloc
MAX_BYTES = 1 << 25  # larger tensors have a region of their own
# Reserve addresses only: with strict overcommit accounting, a fork would fail. (Python names the flag since 3.13.)
NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Region:
    """`size` bytes of addresses; the free blocks are a sorted list of (offset, bytes), no two of them adjacent."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        self._bytes = memoryview(self._map)
        self._free = [(0, size)]
        self._returned: deque[tuple[int, int]] = (
            deque()
        )  # by finalizers, which run at any moment and must not take the lock
        self._lock = Lock()

    def allocate(self, size: int) -> memoryview | None:
        """`size` bytes, freed when the last reference to the view is gone; None if no hole is large enough."""
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        with self._lock:
            self._merge_returned()
            fitting = [(free, offset) for offset, free in self._free if free >= room]
            if not fitting:
                return None
            free, offset = min(fitting)
            index = bisect(self._free, (offset, 0))
            self._free[index : index + 1] = [(offset + room, free - room)] if free > room else []
        view = self._bytes[offset : offset + size]
        weakref.finalize(view, self._returned.append, (offset, room)).atexit = False
        return view

    def _merge_returned(self) -> None:
        """Add the returned blocks to the free list, merging neighbours."""
        while self._returned:
            offset, size = self._returned.popleft()
            index = bisect(self._free, (offset, 0))
            if index < len(self._free) and self._free[index][0] == offset + size:
                size += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == offset:
                index, offset = index - 1, self._free[index - 1][0]
                size += self._free.pop(index)[1]
            self._free.insert(index, (offset, size))

    def release(self) -> None:
        """Return the pages of all free blocks to the system."""
        with self._lock:
            self._merge_returned()
            for offset, size in self._free:
                self._map.madvise(mmap.MADV_DONTNEED, offset, size)


@cache
def regions() -> tuple[Region, Region] | None:
    """The regions for tensors up to `MAX_BYTES` and for larger ones, each as large as the machine's memory.

    None where the system does not support such mappings. None in distributed runs too: a communication thread may free
    a tensor after Python has shut down, and blocks are returned by Python code.
    """
    if launch().size > 1:
        return None
    try:
        size = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
        return Region(size), Region(size)
    except (OSError, ValueError, AttributeError):
        return None


def release_regions() -> None:
    """Return the unused pages of the regions to the system, if there are regions."""
    for each in (regions.cache_info().currsize and regions()) or ():
        each.release()
