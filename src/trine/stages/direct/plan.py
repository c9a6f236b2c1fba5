"""Which items share an optimizer step, and who reads which of them: decided once, by the seed.

An epoch takes the same steps as the one before it, in another order. So each item is always read in the same rows, and
the reference's log-probabilities, taken in these rows, are those of the policy before its first update to the last bit:
the first loss of DPO is log 2, in bf16 too, where another padding would make a difference of 1e-2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trine.algorithms.text_preferences import rotated_mismatches
from trine.data.reply_rows import Group
from trine.runtime.distributed import World
from trine.runtime.seeds import generator_for
from trine.stages.direct.items import Item

STEPS_SORTED_TOGETHER = 8


@dataclass(frozen=True)
class MicroBatch:
    """Places of items, and what each counts: 0 for one that only keeps a process busy while the others have more."""

    items: list[int]
    weights: list[float]


class Plan:
    """The steps of an epoch over `items`; each item is in one of them.

    `mismatches`: for each item the one whose answer is read behind its prompt, for KTO; -1 for none; None where no loss
    asks for it.
    """

    def __init__(
        self, items: Sequence[Item], batch_size: int, micro_batch_size: int, seed: int, *, mismatched: bool = False
    ) -> None:
        self.items, self.micro_batch_size, self.seed = items, micro_batch_size, seed
        self.steps = _steps(items, batch_size, seed, at_least=2 if mismatched else 1)
        self.mismatches: list[int] | None = None
        if mismatched:
            self.mismatches = [-1] * len(items)
            for step in self.steps:
                for index, place in zip(step, rotated_mismatches([items[each].prompt for each in step]), strict=True):
                    self.mismatches[index] = step[place] if place >= 0 else -1

    def step(self, number: int) -> list[int]:
        """The items of step `number` of the endless sequence."""
        epoch, place = divmod(number, len(self.steps))
        order = generator_for(self.seed, "steps", epoch).permutation(len(self.steps))
        return self.steps[int(order[place])]

    def micro_batches(self, step: Sequence[int], world: World) -> list[MicroBatch]:
        """This process's share of a step: every process has as many micro-batches, of as many items."""
        count = -(-len(step) // world.size)
        mine = list(step[world.rank :: world.size])
        weights = [self.items[index].weight for index in mine] + [0.0] * (count - len(mine))
        mine += [step[0]] * (count - len(mine))
        size = self.micro_batch_size
        return [
            MicroBatch(mine[start : start + size], weights[start : start + size]) for start in range(0, count, size)
        ]

    def groups(self, batch: MicroBatch) -> list[Group]:
        """Prompts and answers of a micro-batch."""
        return [(self.items[index].prompt, self.items[index].answers) for index in batch.items]

    def mismatched_groups(self, batch: MicroBatch) -> list[Group]:
        """Its prompts with the answers to others; an item without one has its own answer, which does not count."""
        assert self.mismatches is not None
        others = [self.mismatches[index] if self.mismatches[index] >= 0 else index for index in batch.items]
        return [(self.items[i].prompt, self.items[other].answers) for i, other in zip(batch.items, others, strict=True)]


def _steps(items: Sequence[Item], batch_size: int, seed: int, at_least: int) -> list[list[int]]:
    """Steps of items of like length: shuffled, sorted within a few steps' worth, cut into parts of nearly equal size.

    No item is left out; a step has at most `batch_size`, and `at_least` as many where there are enough.
    """
    order = generator_for(seed, "items").permutation(len(items)).tolist()
    window = batch_size * STEPS_SORTED_TOGETHER
    near = [
        index
        for start in range(0, len(order), window)
        for index in sorted(order[start : start + window], key=lambda i: items[i].tokens)
    ]
    count = min(-(-len(items) // batch_size), max(1, len(items) // at_least))
    cuts = [len(items) * number // count for number in range(count + 1)]
    return [near[begin:end] for begin, end in pairwise(cuts)]
