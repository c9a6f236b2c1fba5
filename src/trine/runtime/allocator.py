"""Make malloc keep freed memory: by default glibc returns large blocks to the system and faults them in again.

Training allocates the same activations at every step, so keeping the pages makes a step 1.3 to 1.5 times faster on a
CPU (docs/LOG.md). Only glibc has these settings; with other C libraries this does nothing.
"""

import ctypes
import platform

from trine.runtime.regions import release_regions

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell malloc to keep freed memory; returns whether the C library supports it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MAX_INT), (_M_TOP_PAD, 64 << 20))
    return all(ctypes.CDLL(None).mallopt(name, value) == 1 for name, value in settings)


def release_memory() -> None:
    """Return unused memory to the system; called between two stages that run in one process."""
    release_regions()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
