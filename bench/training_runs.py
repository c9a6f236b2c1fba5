"""What every training side does with its own step: the same batches in the same order, timed, its memory watched.

Batch number n is random ids drawn from n alone, so that sides with the same weights must see the same losses.
"""

import time
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from bench.process_memory import forget_peak, peak_bytes
from bench.protocol import Reply, random_prompts

Step = Callable[[Tensor], float]
"""One optimizer step over windows [R, T + 1]; returns the mean loss."""


def training_work(step: Step, vocab_size: int, loss_step: float = 0.0) -> Callable[..., Reply]:
    """The work `train` of a side: `steps` steps over fresh batches of `rows` x `tokens`.

    `loss_step`: how far apart the numbers lie in which the side gives its loss, where that is coarse.
    """
    numbers = count()
    first: list[float] = []

    def train(rows: int, tokens: int, steps: int, seed: int) -> Reply:
        batches = [
            torch.tensor(random_prompts(rows, tokens + 1, vocab_size, next(numbers)), dtype=torch.int64)
            for _ in range(steps)
        ]
        forget_peak()
        started = time.perf_counter()
        losses = [step(batch) for batch in batches]
        seconds = time.perf_counter() - started
        first[:] = first or losses[:1]
        figures = {"first_loss": first[0], "loss_step": loss_step, "peak_bytes": peak_bytes()}
        return {"seconds": seconds, "tokens": steps * rows * tokens, **figures}

    return train
