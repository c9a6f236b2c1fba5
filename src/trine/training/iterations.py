"""The half of an online objective that faces the loop: iterations of epochs x minibatches over what was sampled.

PPO on text and on control tasks share it. A step is (iteration, epoch, minibatch); the first step of an iteration
collects what its updates learn from. Between iterations there is nothing to save but weights, moments and `state`;
within one, what was collected too, which an objective that can be saved there gives as `tensors`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from trine.records import Term

Batch = TypeVar("Batch")


class IterationObjective(ABC, Generic[Batch]):
    """An objective whose steps come in iterations of `epochs` x `minibatches`."""

    name: str

    def __init__(self, epochs: int, minibatches: int) -> None:
        self.minibatches = minibatches
        self.steps_per_iteration = epochs * minibatches
        self.observed: dict[str, float] = {}
        self.updates = [0, 0]
        """how many updates of the last iteration were dropped, and how many taken"""

    @abstractmethod
    def start_iteration(self, iteration: int) -> None:
        """Collect what the updates of `iteration` learn from, with the weights of this moment."""

    @abstractmethod
    def micro_batches(self, iteration: int, epoch: int, minibatch: int) -> Sequence[Batch]:
        """The micro-batches of one update."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """How many tokens or steps each term of `batch` sums over."""

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Term]:
        """The loss of `batch` as named sums."""

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of one optimizer step; the first step of an iteration collects."""
        iteration, inner = divmod(step, self.steps_per_iteration)
        if inner == 0:
            self.start_iteration(iteration)  # while `accepted` still speaks of the iteration before
            self.updates = [0, 0]
        return self.micro_batches(iteration, *divmod(inner, self.minibatches))

    def evaluate(self, final: bool) -> dict[str, Any]:
        """Figures on held-out data; none unless a stage has some."""
        return {}

    def may_save(self, step: int) -> bool:
        """Between iterations only."""
        return step % self.steps_per_iteration == 0

    def tensors(self, step: int) -> dict[str, Tensor]:
        """Nothing, between iterations."""
        return {}

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        """There are none, between iterations."""

    def note(self, figures: dict[str, float]) -> None:
        """Nothing depends on an update's figures."""

    @property
    def accepted(self) -> bool:
        """Whether running state may learn from the last iteration: not where the guard dropped all of its updates."""
        return self.updates[True] > 0 or self.updates[False] == 0

    def observations(self, taken: bool = True) -> dict[str, float]:
        """An iteration's figures once, with the first of its updates, be that taken or dropped."""
        self.updates[taken] += 1
        observed, self.observed = self.observed, {}
        return observed

    def describe_batch(self, step: int) -> dict[str, Any]:
        """Identifies the batch, for debugging."""
        return {"iteration": step // self.steps_per_iteration}
