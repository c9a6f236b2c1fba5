"""The speed of this machine, measured in a third of a second, relative to the one recipes were timed on."""

import time

import torch

from trine.runtime.device import Hardware

# Of bf16 products on the reference machine (two cores with AVX512-BF16), where a recipe's `minutes` were measured.
REFERENCE_FLOPS = 850e9
# The share of matrix products in a recipe's time there; the rest is Python, parsing and elementwise operations.
PRODUCT_SHARE = 0.6
# On a GPU, small single products would measure launch latency instead of throughput.
LARGE_PRODUCT, PRODUCTS_AT_ONCE = 8192, 10


def product_flops(hardware: Hardware, size: int = 768, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a square matrix product in the compute dtype."""
    on_cpu = hardware.device.type == "cpu"
    size, at_once = (size, 1) if on_cpu else (LARGE_PRODUCT, PRODUCTS_AT_ONCE)
    a, b = (torch.randn(size, size, dtype=hardware.compute_dtype, device=hardware.device) for _ in range(2))
    float((a @ b)[0, 0])
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(at_once):
            c = a @ b
        float(c[0, 0])  # waits for the device
        count += at_once
    return count * 2 * size**3 / (time.perf_counter() - started)


def time_factor(hardware: Hardware) -> float:
    """Estimated duration of a recipe on this machine, divided by that on the reference machine."""
    return (1 - PRODUCT_SHARE) + PRODUCT_SHARE * REFERENCE_FLOPS / product_flops(hardware)
