"""What the engine asks of a model: read new tokens, sample, and take several steps at once. Three runners answer.

`TorchRunner` is the plain one and runs anywhere; `native.runner.NativeRunner` is the fast one on CPUs, `GraphRunner`
on GPUs. All keep keys and values in pages (pages.py) and know nothing of requests. Shapes: V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MAX_TOKENS = 1024  # new tokens a runner is given at once: what a prompt's activations may take


@dataclass(frozen=True)
class Chunk:
    """Consecutive new tokens `ids` of one row, the first at position `start`; `pages` [n] int32 hold the row.

    `wanted`: after how many of its last tokens logits are asked for.
    """

    pages: NDArray[np.int32]
    ids: Sequence[int]
    start: int
    wanted: int = 1


@dataclass
class SamplingState:
    """What a row's next token depends on besides its logits: temperature (0 is greedy), and (seed, counter)."""

    temperature: float
    seed: int
    counter: int = 0


@dataclass
class DecodeRow:
    """A row that decodes: `next_id` is sampled but not yet read; its position is `position`; `ends` stop the row."""

    pages: NDArray[np.int32]
    position: int
    next_id: int
    sampling: SamplingState
    ends: NDArray[np.int64]


class Runner(Protocol):
    """A model with its pages. It reads no slot of a page that its row has not written: whatever is left there, of a row
    whose numbers were none or of a call that failed half-way, reaches nobody."""

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the weights of a plain Transformer, under its names."""
        ...

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits [wanted tokens, V] (fp32 or wider) after the wanted tokens, in order; the next call overwrites it."""
        ...

    def log_probs(self, chunks: Sequence[Chunk], targets: Sequence[int], temperature: float) -> list[float]:
        """Log-probabilities of `targets`, the token after each wanted token, at `temperature`."""
        ...

    def sample(self, rows: Sequence[int], states: Sequence[SamplingState]) -> tuple[list[int], list[float]]:
        """Tokens, with their log-probabilities, from rows `rows` of the logits [B, V] of the last `forward`."""
        ...

    def decode(self, rows: Sequence[DecodeRow], steps: int) -> tuple[list[list[int]], list[list[float]]]:
        """Up to `steps` tokens a row as [steps][rows], stopping after the first step in which a row ends or is damaged.

        `next_id`, `position` and the sampling counter of every row advance.
        """
        ...
