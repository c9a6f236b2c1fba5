"""The chip a figure is of. Without bf16 products targets differ; a better chip can stand in for one with AVX2 only."""

import os
from typing import Literal, TypeVar

from trine.runtime.device import cpu_has_bf16

Chip = Literal["avx512-bf16", "avx2"]
CHIPS: tuple[Chip, ...] = ("avx512-bf16", "avx2")
Value = TypeVar("Value")

# What makes our kernels, PyTorch, oneDNN and MKL leave wider vectors alone. llama.cpp decides when it is built.
AS_AVX2 = {
    "TRINE_NATIVE_ARCHITECTURE": "x86-64-v3",
    "TRINE_PRECISION": "fp32",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def stand_in_for(chip: Chip) -> None:
    """Let every side of this process run as on `chip`."""
    if chip == "avx2":
        os.environ.update(AS_AVX2)


def limits() -> dict[str, str]:
    """The variables of a chip that this one stands in for, to pass on to the sides."""
    return {name: os.environ[name] for name in AS_AVX2 if name in os.environ}


def chip() -> Chip:
    """The chip whose targets hold."""
    return "avx512-bf16" if cpu_has_bf16() and not limits() else "avx2"


def by_chip(avx512_bf16: Value, avx2: Value) -> Value:
    return avx512_bf16 if chip() == "avx512-bf16" else avx2
