"""The learning rate as a share of its peak: a linear rise, then a fall."""

import math

from trine.config.base import OptimizerConfig


def learning_rate_share(step: int, steps: int, config: OptimizerConfig) -> float:
    """Share of the peak at `step` (0-based) of `steps`; the warm-up's first step is already above 0.

    `wsd` is warm-up, stable, decay (Hu et al. 2024, "MiniCPM"): at the peak until the last `decay_share` of the steps.
    """
    warmup = config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.decay == "constant":
        return 1.0
    start = max(warmup, steps - math.ceil(config.decay_share * steps)) if config.decay == "wsd" else warmup
    done = max(step - start, 0) / max(steps - start, 1)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if config.decay == "cosine" else 1 - done
    return config.final_share + (1 - config.final_share) * fall
