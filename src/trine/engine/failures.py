"""What a batch comes to where some of its requests failed: the error carries the answers that were finished."""

from collections.abc import Sequence

from trine.records import Rollout
from trine.runtime.errors import TrineError


class GenerationError(TrineError):
    """Some requests of a call failed. `rollouts`: those of the others, None where one failed, in the call's order;
    `errors`: why, by the request's place in that order."""

    def __init__(self, outcomes: Sequence[Rollout | TrineError]) -> None:
        self.rollouts = [each if isinstance(each, Rollout) else None for each in outcomes]
        self.errors = {place: each for place, each in enumerate(outcomes) if isinstance(each, TrineError)}
        first, reason = next(iter(self.errors.items()))
        message = str(reason)
        if len(outcomes) > 1:
            message = (
                f"{len(self.errors)} of {len(outcomes)} requests failed, the first of them number {first} (counted "
                f"from 0): {reason}; the answers of the others are in this error's `rollouts`"
            )
        super().__init__(message)


def all_finished(outcomes: Sequence[Rollout | TrineError]) -> list[Rollout]:
    """The rollouts; raises `GenerationError`, which carries the finished ones, where one is an error."""
    rollouts = [each for each in outcomes if isinstance(each, Rollout)]
    if len(rollouts) < len(outcomes):
        raise GenerationError(outcomes)
    return rollouts
