"""Memory for the large tensors that a training step makes and drops, beside malloc's.

malloc puts small, lasting objects between large, passing ones, and then grows: half of a step's memory was holes. Here
large tensors lie in reserved regions, each in the smallest hole where it fits, and free neighbours are one hole again.
The largest (a vocabulary's) have a region of their own, since smaller ones would cut up the holes they leave. Pages
stay with the process once they were used, as `allocator.py` wants it. A tensor gives its place back when its storage
ends, in whichever thread that is.
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

MIN_BYTES = 1 << 18  # smaller tensors are malloc's
MAX_BYTES = 1 << 25  # larger ones are among themselves
# Only addresses are reserved: a system that counts promised memory would refuse to fork. (A name since Python 3.13.)
NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Region:
    """`size` bytes of addresses; what is free of them is a list of (offset, bytes), in order, none beside another."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        self._bytes = memoryview(self._map)
        self._free = [(0, size)]
        self._returned: deque[tuple[int, int]] = deque()  # by finalizers, which may come at any moment and take no lock
        self._lock = Lock()

    def take(self, size: int) -> memoryview | None:
        """`size` bytes that are free again when nobody holds the view; None where there is no such room."""
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        with self._lock:
            self._settle()
            fitting = [(free, offset) for offset, free in self._free if free >= room]
            if not fitting:
                return None
            free, offset = min(fitting)
            index = bisect(self._free, (offset, 0))
            self._free[index : index + 1] = [(offset + room, free - room)] if free > room else []
        view = self._bytes[offset : offset + size]
        weakref.finalize(view, self._returned.append, (offset, room)).atexit = False
        return view

    def _settle(self) -> None:
        """Make what was returned free."""
        while self._returned:
            offset, size = self._returned.popleft()
            index = bisect(self._free, (offset, 0))
            if index < len(self._free) and self._free[index][0] == offset + size:
                size += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == offset:
                index, offset = index - 1, self._free[index - 1][0]
                size += self._free.pop(index)[1]
            self._free.insert(index, (offset, size))

    def give_back(self) -> None:
        """Return the pages of all that is free to the system."""
        with self._lock:
            self._settle()
            for offset, size in self._free:
                self._map.madvise(mmap.MADV_DONTNEED, offset, size)


@cache
def regions() -> tuple[Region, Region] | None:
    """This process's, for tensors up to `MAX_BYTES` and beyond; each could hold the machine's whole memory.

    None where the system has no such mappings, or refuses one; and in one process of several, since what they exchange
    may be let go by a thread of the exchange when Python, which a place goes back through, has ended.
    """
    if launch().size > 1:
        return None
    try:
        size = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
        return Region(size), Region(size)
    except (OSError, ValueError, AttributeError):
        return None


def give_back_regions() -> None:
    """Return to the system what no tensor has of the regions, if there are any."""
    for each in (regions.cache_info().currsize and regions()) or ():
        each.give_back()
