"""How a shared engine is doing: counts of the moment, and speeds over the last steps and requests."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from trine.engine.engine import Engine

WINDOW = 256  # steps, and requests, that means are taken over


@dataclass(frozen=True)
class EngineFigures:
    """`prefix_hits`: pages of prompts that were found computed, since the engine was made. `time_to_first_token`:
    seconds from submission, the mean of the last 256 requests. `tokens_per_second`: of the last 256 steps, idle time
    left out. Both are 0 before the first token."""

    waiting: int
    active: int
    free_pages: int
    prefix_hits: int
    time_to_first_token: float
    tokens_per_second: float


class Meter:
    """Measures in the worker's thread; `figures` may be read from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._first: deque[float] = deque(maxlen=WINDOW)
        self._steps: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self.add(0, 0.0, [])

    def add(self, tokens: int, seconds: float, first: Sequence[float]) -> None:
        """A step is over; `first`: the times to first token of the requests that had theirs in it."""
        admission = self._engine.admission
        with self._lock:
            self._counts = (
                len(admission.waiting), len(admission.active), admission.pool.available, admission.prefix_hits,
            )  # fmt: skip
            self._first.extend(first)
            if tokens:
                self._steps.append((tokens, seconds))

    def figures(self, submitted: int) -> EngineFigures:
        """As of the last step, with `submitted` more that wait."""
        with self._lock:
            waiting, active, free_pages, prefix_hits = self._counts
            tokens, seconds = (sum(column) for column in zip(*self._steps, strict=True)) if self._steps else (0, 0.0)
            first = sum(self._first) / len(self._first) if self._first else 0.0
        speed = tokens / seconds if seconds else 0.0
        return EngineFigures(waiting + submitted, active, free_pages, prefix_hits, first, speed)
