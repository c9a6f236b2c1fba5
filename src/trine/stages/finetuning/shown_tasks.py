"""Training rows of GPT-1's tasks as people read them: readings with new tokens, and what language modelling trains.

The head reads at the extract token, the last of a reading; which label it is to give stands behind the example's place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from trine.config.finetuning import FinetuneConfig
from trine.data.packing import fit_rows
from trine.records import TaskExample, TokenSpan
from trine.stages.finetuning.shown_rows import ShownExample, ShownRow, shown_example
from trine.stages.finetuning.task_objective import Encoded, epoch_order
from trine.tokenizer.tokenizer import Tokenizer

Place = tuple[int, TokenSpan]
"""the number of an example, and one of its readings"""


def first_task_rows(
    examples: Sequence[TaskExample], encoded: Encoded, tokenizer: Tokenizer, config: FinetuneConfig, count: int
) -> list[ShownRow]:
    """The first rows that training reads, at most an epoch of them."""
    rows = list(_rows(encoded, config))

    def shown(number: int, reading: TokenSpan) -> ShownExample:
        if not config.auxiliary_weight:
            reading = replace(reading, trained=(False,) * len(reading.ids))
        example = examples[number]
        return shown_example(f"{example.name}, label {example.label}", reading, tokenizer)

    return [
        ShownRow(number, len(rows), config.row_tokens, tuple(shown(*place) for place in row))
        for number, row in enumerate(islice(rows, count), 1)
    ]


def _rows(encoded: Encoded, config: FinetuneConfig) -> Iterator[list[Place]]:
    """The rows of the first epoch, micro-batch by micro-batch."""
    order, size = epoch_order(config.seed, 0, len(encoded)), config.micro_batch_size
    for start in range(0, len(order), size):
        places = [(number, reading) for number in order[start : start + size] for reading in encoded.readings[number]]
        for items in fit_rows([len(reading.ids) for _, reading in places], config.row_tokens):
            yield [places[item] for item in items]
