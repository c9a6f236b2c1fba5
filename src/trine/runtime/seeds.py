"""Counter-based random numbers: the same (seed, stream, index) gives the same numbers on any machine.

Nothing random depends on what ran before, so a resumed run needs no generator state, and a sampled row does not depend
on the other rows of its batch. The mixing function is the finaliser of SplitMix64 (Steele et al. 2014).
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose (`names`), independent of the seeds for other purposes."""
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator_for(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *names))


def uniform(seeds: Tensor, counters: Tensor) -> Tensor:
    """One float64 in [0, 1) per element of `seeds` and `counters`, int64 of the same shape. (float32 on MPS.)"""
    z = seeds + (counters + 1) * _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    if z.device.type == "mps":
        return _shift_right(z, 40).float() * 2.0**-24
    return _shift_right(z, 11).double() * 2.0**-53


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift right: int64 shifts in copies of the sign bit, which the mask removes."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def seed_torch(seed: int) -> None:
    """Seed PyTorch's own generator, which Trine does not use; a user's reward function may."""
    torch.manual_seed(seed % 2**63)
