"""Resident memory of this process, from Linux's /proc."""

from pathlib import Path

import torch

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def ready_bytes(*, compiled: bool = False) -> int:
    """Resident memory after imports, with threads and math libraries started and the compiler loaded."""
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        _ = matrix @ matrix
    if compiled:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    return resident_bytes()


def resident_bytes() -> int:
    """Resident memory now; 0 where /proc is not available."""
    return _field("VmRSS")


def peak_bytes() -> int:
    """Peak resident memory since the start of the process or `reset_peak`."""
    return _field("VmHWM")


def reset_peak() -> None:
    """Reset the peak to the current resident memory, so that it does not include loading a model."""
    if _FORGET.exists():
        _FORGET.write_text("5")


def _field(name: str) -> int:
    if not _STATUS.exists():
        return 0
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == f"{name}:")
