"""Greedy answers of two implementations side by side."""

from collections.abc import Callable, Sequence

from torch import Tensor


def margins(
    prompts: Sequence[Sequence[int]],
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    next_logits: Callable[[list[int]], Tensor],
) -> list[float]:
    """For every pair of answers that differ: how many nats the worse choice was behind, at the first place they do.

    `next_logits` gives the logits [V] of the token after the ids; they decide which choice was the worse.
    """
    found = []
    for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
        if list(mine) != list(other):
            place = next(index for index, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b)
            logits = next_logits([*prompt, *mine[:place]])
            found.append(float(logits.max() - logits[[mine[place], other[place]]].min()))
    return found
