"""The learning rate as a share of its peak: a linear rise, then a fall.

The fall begins at the peak and ends, at the last step, at `final_share`. Where that is 0 it is reached one step later,
as in other libraries: a step at rate 0 would be wasted.
"""

import math
from collections.abc import Callable

from trine.config.base import OptimizerConfig


def learning_rate_share(step: int, steps: int, config: OptimizerConfig) -> float:
    """Share of the peak at `step` (0-based) of `steps`; the warm-up's first step is already above 0.

    `wsd` is warm-up, stable, decay (Hu et al. 2024, "MiniCPM"): at the peak until the last `decay_share` of the steps.
    """
    warmup = warmup_steps(steps, config)
    if step < warmup:
        return (step + 1) / warmup
    start, end = decay_start(steps, config), steps if config.final_share == 0 else steps - 1
    if step < start:
        return 1.0
    if step == end > 0:
        return config.final_share
    done = (step - start) / max(end - start, 1)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if config.decay == "cosine" else 1 - done
    return config.final_share + (1 - config.final_share) * fall


def warmup_steps(steps: int, config: OptimizerConfig) -> int:
    """Steps over which the rate rises."""
    return config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_share * steps)


def decay_start(steps: int, config: OptimizerConfig) -> int:
    """The last step at the peak, from which the rate falls; `steps` where it does not."""
    if config.decay == "constant":
        return steps
    warmup = warmup_steps(steps, config)
    return max(warmup, steps - math.ceil(config.decay_share * steps)) if config.decay == "wsd" else warmup


def schedule_warning(steps: int, config: OptimizerConfig) -> str | None:
    """A word about a warm-up that the run is too short for."""
    warmup = warmup_steps(steps, config)
    if warmup <= steps:
        return None
    return (
        f"the warm-up of {warmup} steps (optimizer.warmup_steps) is longer than the run of {steps}: the learning rate "
        f"ends at {learning_rate_share(steps - 1, steps, config):.0%} of its peak"
    )


def step_before_decay(steps: int, config: OptimizerConfig, may_save: Callable[[int], bool]) -> int:
    """With `wsd`, the last step before the decay after which a checkpoint can be saved; 0: there is none.

    A longer run is the same up to there, so that it is extended from there: the decay is made again, later.
    """
    if config.decay != "wsd":
        return 0
    start = min(decay_start(steps, config), steps)
    return next((step for step in range(start, 0, -1) if may_save(step)), 0)
