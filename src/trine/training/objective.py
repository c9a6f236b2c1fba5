"""What a stage brings to the training loop: its batches, their loss, and what has to be saved beside the weights."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

from trine.records import Term

Batch = TypeVar("Batch")


class Objective(Protocol[Batch]):
    """What a stage trains: where its batches come from and what their loss is."""

    name: str

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of one optimizer step, a function of `step` (and, for PPO, of the weights).

        None at all: there is no update in this step.
        """
        ...

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many tokens, pairs, ... each term of `batch` that is a sum is over; a maximum has none."""
        ...

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The loss of `batch` as named terms. Those of weight 0 are only logged."""
        ...

    def evaluate(self, final: bool) -> dict[str, Any]:
        """Figures on held-out data."""
        ...

    def may_save(self, step: int) -> bool:
        """Whether weights, optimizer state, `state` and `tensors` are all that it takes to go on after `step` steps."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def tensors(self, step: int) -> dict[str, Tensor]:
        """What else is needed to resume after `step` steps, and is too large for `state`; the same in all processes."""
        ...

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None: ...

    def note(self, figures: dict[str, float]) -> None:
        """The figures of a step, over all processes, before `observations`; `gradient_seconds` among them: how long its
        forward and backward passes took."""
        ...

    def observations(self, taken: bool = True) -> dict[str, float]:
        """More figures of the last step, for the log; from `tokens` the loop computes tokens per second.

        Called once a step. A step that is not `taken` was dropped by the guard: no running state may learn from it.
        """
        ...

    def describe_batch(self, step: int) -> dict[str, Any]:
        """Identifies the batch, for debugging."""
        ...


class StepObjective:
    """Base of objectives whose batches are a function of the step alone: nothing to save but the step."""

    def may_save(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The data position is the step."""

    def tensors(self, step: int) -> dict[str, Tensor]:
        return {}

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        """There are none."""

    def note(self, figures: dict[str, float]) -> None:
        """Nothing depends on them."""

    def observations(self, taken: bool = True) -> dict[str, float]:
        return {}

    def describe_batch(self, step: int) -> dict[str, Any]:
        return {}
