"""Keep freed memory: glibc hands every large block back to the system and pages it in again at the next use.

Training allocates the same activations step after step, so keeping the pages is worth 1.3 to 1.5 times the speed
on a CPU (docs/LOG.md). Only glibc has these switches; elsewhere this does nothing.
"""

import ctypes
import platform

from trine.runtime.regions import give_back_regions

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell malloc to keep what is freed; True where that was possible."""
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MAX_INT), (_M_TOP_PAD, 64 << 20))
    return all(ctypes.CDLL(None).mallopt(name, value) == 1 for name, value in settings)


def give_back_memory() -> None:
    """Return what is kept but not used, between two stages of one process."""
    give_back_regions()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
