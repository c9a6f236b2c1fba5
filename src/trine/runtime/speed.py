"""How fast this machine is, measured in a third of a second, against the machine recipes were timed on."""

import time

import torch

from trine.runtime.device import Hardware

# bf16 products on two cores of an AVX512-BF16 processor, where a recipe's `minutes` were measured (docs/LOG.md).
REFERENCE_FLOPS = 850e9
# Share of a recipe's time there that is matrix products; the rest is Python, parsing and elementwise work.
PRODUCT_SHARE = 0.6


def product_flops(hardware: Hardware, size: int = 768, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a square matrix product in the compute dtype."""
    a, b = (torch.randn(size, size, dtype=hardware.compute_dtype, device=hardware.device) for _ in range(2))
    _ = a @ b
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        c = a @ b
        if hardware.device.type != "cpu":
            float(c[0, 0])
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - started)


def time_factor(hardware: Hardware) -> float:
    """About how many times longer than on the reference machine a recipe takes here."""
    return (1 - PRODUCT_SHARE) + PRODUCT_SHARE * REFERENCE_FLOPS / product_flops(hardware)
