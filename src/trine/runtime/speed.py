"""How fast this machine is, measured in a third of a second, against the machine recipes were timed on."""

import time

import torch

from trine.runtime.device import Hardware

# bf16 products on two cores of an AVX512-BF16 processor, where a recipe's `minutes` were measured (docs/LOG.md).
REFERENCE_FLOPS = 850e9
# Share of a recipe's time there that is matrix products; the rest is Python, parsing and elementwise work.
PRODUCT_SHARE = 0.6
# On a GPU a product has to be large, and several under way, for its rate and not its start to be measured.
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
    """About how many times longer than on the reference machine a recipe takes here."""
    return (1 - PRODUCT_SHARE) + PRODUCT_SHARE * REFERENCE_FLOPS / product_flops(hardware)
