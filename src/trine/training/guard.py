"""Checks every step before the optimizer takes it: non-finite values and spikes never reach the weights.

A spike is a loss (or gradient norm before clipping) that is both several times the median of the steps before it
and far outside their spread, measured by the median absolute deviation, which outliers do not move (Hampel 1974).
Both conditions are needed: a noisy healthy run has a wide spread, a memorising one a small median. Dropped steps do
not enter the window. The state is part of the checkpoint, so that a resumed run decides as the uninterrupted one would.
"""

import math
from statistics import median
from typing import Any

from trine.config.base import LoopConfig

# The median absolute deviation of a normal distribution is its standard deviation divided by this.
NORMAL_SCALE = 1.4826
# So many of those deviations above the median is far outside; a normal distribution never gets there.
FAR_OUTSIDE = 10.0


class StepGuard:
    """Losses and gradient norms of the last steps taken, and which steps were dropped."""

    def __init__(self, config: LoopConfig, *, spikes: bool) -> None:
        self.config, self.spikes = config, spikes
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.dropped: list[int] = []
        self.skipped = 0

    def problem(self, step: int, loss: float, norm: float) -> str | None:
        """What is wrong with `step` (0-based), for the message; None if nothing is."""
        if not math.isfinite(norm):
            return f"the gradient of step {step + 1} is not finite"
        if not math.isfinite(loss):
            return f"the loss of step {step + 1} is not finite"
        if self.spikes and len(self.losses) >= self.config.spike_window:
            return _spike(f"loss of step {step + 1}", loss, self.losses, self.config.spike_loss_factor) or _spike(
                f"gradient norm of step {step + 1}", norm, self.norms, self.config.spike_norm_factor
            )
        return None

    def take(self, loss: float, norm: float) -> None:
        """Record a step that was taken."""
        window = self.config.spike_window
        self.losses = [*self.losses, loss][-window:]
        self.norms = [*self.norms, norm][-window:]

    def may_skip(self, step: int) -> bool:
        """Record `step` as dropped; False where the config says stop, or too many were dropped recently."""
        self.skipped += 1
        self.dropped = [other for other in self.dropped if other > step - self.config.spike_window] + [step]
        return self.config.on_bad_step == "skip" and len(self.dropped) <= self.config.max_skips

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses, "norms": self.norms, "dropped": self.dropped, "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        window = self.config.spike_window  # which may have changed since
        self.losses, self.norms = list(state["losses"])[-window:], list(state["norms"])[-window:]
        self.dropped, self.skipped = list(state["dropped"]), int(state["skipped"])


def _spike(name: str, value: float, window: list[float], factor: float) -> str | None:
    middle = median(window)
    spread = NORMAL_SCALE * median(abs(other - middle) for other in window)
    if factor and value > factor * middle and value > middle + FAR_OUTSIDE * spread:
        return f"the {name} jumped to {value:.4g} from a median of {middle:.4g} over {len(window)} steps"
    return None
