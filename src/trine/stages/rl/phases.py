"""Where the time of an iteration goes: seconds of sampling, scoring, log-probabilities, advantages and gradients.

What is in none of them (the optimizer, the log, checkpoints) is the rest of the rows' `seconds`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("sampling", "reward", "log_probs", "advantages", "gradients")
PREFIX = "seconds_"


class Phases:
    """Seconds by phase since the last `take`.

    >>> phases = Phases()
    >>> phases.add("sampling", 0.5)
    >>> phases.take()
    {'seconds_sampling': 0.5}
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Around a piece of work."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - started)

    def add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by the names of the log; counting begins again."""
        found, self._seconds = self._seconds, {}
        return {f"{PREFIX}{phase}": seconds for phase, seconds in found.items()}
