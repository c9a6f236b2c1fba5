"""The common loop of training sides: the same batches in the same order, with time and peak memory.

Batch n is random ids sampled with seed n, so that sides with the same weights must get the same losses.
"""

import time
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from bench.process_memory import peak_bytes, reset_peak
from bench.protocol import Reply, random_prompts

Step = Callable[[Tensor], float]
"""One optimizer step over windows [R, T + 1]; returns the mean loss."""


def training_work(step: Step, vocab_size: int, loss_step: float = 0.0) -> Callable[..., Reply]:
    """The work `train` of a side: `steps` steps over fresh batches of `rows` x `tokens`.

    `loss_step`: the resolution of the reported loss, if it is coarse (bf16).
    """
    numbers = count()
    first: list[float] = []

    def train(rows: int, tokens: int, steps: int, seed: int) -> Reply:
        batches = [
            torch.tensor(random_prompts(rows, tokens + 1, vocab_size, next(numbers)), dtype=torch.int64)
            for _ in range(steps)
        ]
        reset_peak()
        started = time.perf_counter()
        losses = [step(batch) for batch in batches]
        seconds = time.perf_counter() - started
        first[:] = first or losses[:1]
        figures = {"first_loss": first[0], "loss_step": loss_step, "peak_bytes": peak_bytes()}
        return {"seconds": seconds, "tokens": steps * rows * tokens, **figures}

    return train
