"""Idle threads of the libraries under us sleep soon, rather than spin for milliseconds, as is their default.

Spinning costs nothing on a machine that does nothing else. Beside other programs it burns the processor time that they,
and the thread that is waited for, would have used (docs/LOG.md has the figures). Our own teams of threads
(`model/native/team.h`) sleep after microseconds too.

The libraries read these variables when they are loaded, so `import trine` sets them, before PyTorch is imported. What
the user has set stays, and `OMP_WAIT_POLICY` takes precedence. Imports nothing heavy.
"""

import os

SHORT_WAITS = {
    "GOMP_SPINCOUNT": "2500",  # GNU OpenMP, of PyTorch on Linux: looks at the barrier, 250 microseconds or so
    "KMP_BLOCKTIME": "0",  # LLVM and Intel OpenMP, of PyTorch on macOS: milliseconds
    "OPENBLAS_THREAD_TIMEOUT": "14",  # OpenBLAS, of NumPy: 2^14 clock cycles, some microseconds
}


def sleep_while_waiting() -> None:
    """Set `SHORT_WAITS` for libraries that are not loaded yet."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    for name, value in SHORT_WAITS.items():
        os.environ.setdefault(name, value)
