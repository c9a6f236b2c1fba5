"""When the steps of a `transformers` trainer began and ended: what it does around them is in nobody's seconds."""

import time
from typing import Any

from transformers import TrainerCallback


class Clock(TrainerCallback):  # type: ignore[misc]
    """A callback; `seconds` from the beginning of the first step to the end of the last."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended = 0.0

    def on_step_begin(self, *arguments: Any, **more: Any) -> None:
        self.began = self.began or time.perf_counter()

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        assert self.began is not None
        return self.ended - self.began
