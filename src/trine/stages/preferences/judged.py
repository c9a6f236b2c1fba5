"""What a reward model's worth is measured by: held-out judgements beside the scores of their answers."""

from dataclasses import dataclass

from trine.records import Judgement, JudgementKind


@dataclass(frozen=True)
class Judged:
    """A judgement, and what a reward model gives its answers.

    `scores`: one for each of `item.answers`, in their order, in the unit that the model was trained in (before it is
    normalized on the policy's samples). `ids`: each answer as it was read, end token included, without the prompt.
    """

    item: Judgement
    kind: JudgementKind
    scores: tuple[float, ...]
    ids: tuple[tuple[int, ...], ...] = ()
