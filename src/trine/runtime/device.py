"""Device, precision and number of threads, chosen once and passed on as one `Hardware` value.

Master weights are always fp32. Matrix products run in bf16 where the hardware supports it (GPUs since Ampere, CPUs with
AVX512-BF16 or AMX) and in fp32 elsewhere. `TRINE_DEVICE` and `TRINE_PRECISION` stand for `auto`: what a config, a
recipe or an option states goes before them.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from trine.runtime.errors import TrineError
from trine.runtime.launch import launch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Hardware:
    """Where to compute, and the dtype of matrix products."""

    device: torch.device
    compute_dtype: torch.dtype
    threads: int

    @property
    def precision(self) -> str:
        """fp32 or bf16, whatever it was chosen by."""
        return "bf16" if self.compute_dtype == torch.bfloat16 else "fp32"

    @property
    def device_name(self) -> str:
        """cpu, mps, or the name of the GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def description(self) -> str:
        if self.device.type == "cuda":
            return f"{self.device_name}, {self.precision}"
        return f"{self.device_name}, {self.threads} threads, {self.precision}"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False  # macOS and Windows have no such file: use fp32, which is exact and slower
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_hardware(device: str = "auto", precision: str = "auto", threads: int = 0) -> Hardware:
    """The hardware to use. `auto` and 0 let the environment's variables decide, or else Trine."""
    device = os.environ.get("TRINE_DEVICE", device) if device == "auto" else device
    precision = os.environ.get("TRINE_PRECISION", precision) if precision == "auto" else precision
    if precision not in ("auto", *PRECISIONS):
        raise TrineError(f"precision={precision!r} is unknown; choose auto, fp32 or bf16")
    chosen = _choose_device(device)
    if precision == "auto":
        precision = "bf16" if _device_has_bf16(chosen) else "fp32"
    if precision == "bf16" and chosen.type == "cuda" and not _device_has_bf16(chosen):
        raise TrineError(f"{torch.cuda.get_device_name(chosen)} has no bf16; set precision to fp32")
    torch.set_num_threads(threads or max(1, available_cores() // launch().local_size))
    _use_fast_exact_fp32()
    return Hardware(chosen, PRECISIONS[precision], torch.get_num_threads())


@contextmanager
def numpy_threads(count: int) -> Iterator[None]:
    """Limit NumPy's matrix products to `count` threads (PyTorch's setting does not apply to them); 0: no limit."""
    with threadpool_limits(count or None, user_api="blas"):
        yield


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return _own_gpu()
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrineError(f"device={name!r} cannot be used here: {error}; choose auto or cpu") from None
    return _own_gpu() if device == torch.device("cuda") else device


def _own_gpu() -> torch.device:
    """The GPU of this process: one for each process on the machine."""
    if launch().local_rank >= torch.cuda.device_count():
        raise TrineError(
            f"{launch().local_size} processes and {torch.cuda.device_count()} GPUs here: each process needs a GPU of "
            "its own; start as many with --nproc-per-node, or set device to cpu"
        )
    return torch.device("cuda", launch().local_rank) if launch().size > 1 else torch.device("cuda")


def _device_has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bf16()


def _use_fast_exact_fp32() -> None:
    """Use oneDNN for fp32 products, which is twice as fast as MKL on AMD, if its results stay exact on this machine.

    On processors without AMX, the setting named "bf16" only selects the library. Where it would really round to
    bf16, the error measured here shows it, and the setting is reverted.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(128, 128, generator=generator) for _ in range(2))
    error = ((a @ b).double() - a.double() @ b.double()).abs().max()
    if error > 1e-4:
        setting.fp32_precision = before
