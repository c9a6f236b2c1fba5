"""The learning rate as a share of its peak: a linear rise, then a fall."""

import math
from typing import Literal

Decay = Literal["cosine", "linear", "constant"]


def learning_rate_share(step: int, steps: int, warmup_share: float, decay: Decay, final_share: float) -> float:
    """Share of the peak at `step` (0-based) of `steps`; the warm-up's first step is already above 0."""
    warmup = math.ceil(warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    if decay == "constant":
        return 1.0
    done = (step - warmup) / max(steps - warmup, 1)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if decay == "cosine" else 1 - done
    return final_share + (1 - final_share) * fall
