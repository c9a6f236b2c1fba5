"""GPT-1's loss L3 = L2 + lambda L1 (Radford et al. 2018, eq. 5) on readings packed several to a row.

L2 is the cross-entropy of the labels (of scores their squared error, standardised), L1 the language-modelling loss on
all tokens of the texts, labelled examples or not; the new tokens are no part of the texts. Both are means over the
whole step: over its examples, and over its text tokens. (OpenAI's code takes the mean over each text first: the same
for one text, and for texts of one length.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trine.algorithms.text_correlation import pearson
from trine.algorithms.text_labels import label_loss, score_loss
from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.config.finetuning import FinetuneConfig
from trine.data.packing import fit_rows, pack
from trine.data.rows import Batch
from trine.model.classifier import TaskModel
from trine.records import Term, TokenSpan
from trine.runtime.seeds import generator_for
from trine.training.objective import StepObjective
from trine.training.parallel import Parallel


@dataclass(frozen=True)
class Encoded:
    """Examples as tokens: the readings of each (of which `trained` marks the texts' tokens), and its label's number.

    Of scores `labels` are real numbers, standardised.
    """

    readings: list[list[TokenSpan]]
    labels: list[float]

    @property
    def scored(self) -> bool:
        return any(isinstance(label, float) for label in self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self, example: int) -> int:
        return sum(len(reading.ids) for reading in self.readings[example])

    def readings_of(self, chosen: Sequence[int]) -> list[TokenSpan]:
        """The readings of the `chosen` examples, one after the other."""
        return [reading for example in chosen for reading in self.readings[example]]


@dataclass(frozen=True)
class TaskBatch:
    """Packed readings of examples: `ends` [M, 2] rows and columns of extract tokens, `owners` [M], `labels` [N]."""

    rows: Batch
    ends: Tensor
    owners: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "TaskBatch":
        return TaskBatch(self.rows.to(device), self.ends.to(device), self.owners.to(device), self.labels.to(device))


def pack_task(examples: Encoded, chosen: Sequence[int], row_tokens: int) -> TaskBatch:
    """The readings of the `chosen` examples, best fit in rows of at most `row_tokens`."""
    readings = examples.readings_of(chosen)
    owners = [place for place, example in enumerate(chosen) for _ in examples.readings[example]]
    lengths = [len(reading.ids) for reading in readings]
    rows = fit_rows(lengths, row_tokens)
    ends = [(0, 0)] * len(readings)
    for row, items in enumerate(rows):
        filled = 0
        for item in items:
            filled += lengths[item]
            ends[item] = row, filled - 1
    width = max(sum(lengths[item] for item in items) for items in rows)
    tensor = torch.tensor
    return TaskBatch(
        pack(readings, rows, width, 0.0), tensor(ends), tensor(owners), tensor([examples.labels[e] for e in chosen])
    )


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """The order in which an epoch reads `count` examples."""
    order: list[int] = generator_for(seed, "epoch", epoch).permutation(count).tolist()
    return order


class TaskLoss(nn.Module):
    """The sums of L2 and L1 in one forward pass, which is what DDP and FSDP can wrap."""

    def __init__(self, model: TaskModel, *, language_modelling: bool) -> None:
        super().__init__()
        self.model, self.language_modelling = model, language_modelling

    def forward(
        self, ids: Tensor, targets: Tensor, weights: Tensor, labels: Tensor, **places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(L2 in nats, L1 in nats or 0 where it is not asked for, logits [N, C]).

        `ids`, `targets`, `weights` [R, T] as in `Batch`; `labels` [N]; `places` is what else `TaskModel` takes.
        """
        hidden, logits = self.model(ids, **places)
        loss = (score_loss if labels.is_floating_point() else label_loss)(logits, labels)
        if not self.language_modelling:
            return loss, loss.new_zeros(()), logits
        weight = self.model.trunk.output_weight
        return loss, cross_entropy_sum(hidden.flatten(0, 1), weight, targets.flatten(), weights.flatten()), logits


def losses(module: nn.Module, batch: TaskBatch) -> tuple[Tensor, Tensor, Tensor]:
    """`TaskLoss` (`module`, which may be wrapped) of a batch."""
    rows = batch.rows
    places = {"ends": batch.ends, "owners": batch.owners, "positions": rows.positions, "starts": rows.starts}
    found: tuple[Tensor, Tensor, Tensor] = module(rows.ids, rows.targets, rows.weights, batch.labels, **places)
    return found


class TaskObjective(StepObjective):
    """L3 in nats; evaluation by accuracy. Of several processes each trains its share of a step's examples."""

    name = "finetune"

    def __init__(self, parallel: Parallel, examples: Encoded, held_out: Encoded, config: FinetuneConfig) -> None:
        """`parallel.module` is a `TaskLoss`, wrapped for several processes or not."""
        assert parallel.module is not None
        self.module, self.world = parallel.module, parallel.world
        self.examples, self.held_out, self.config = examples, held_out, config
        self.first, self.each = self.world.share(config.batch_size, "batch_size")
        self.error = "squared_error" if examples.scored else "classification"
        self.predicted: list[list[float]] = []
        self._epoch, self._order = -1, [0]

    def batches(self, step: int) -> Sequence[TaskBatch]:
        start = step * self.config.batch_size + self.first
        chosen = [self._example(index) for index in range(start, start + self.each)]
        return list(self._micro_batches(self.examples, chosen))

    def _example(self, index: int) -> int:
        """Number `index` of the endless sequence of examples, in another order each epoch."""
        epoch, place = divmod(index, len(self.examples))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.config.seed, epoch, len(self.examples))
        return self._order[place]

    def _micro_batches(self, examples: Encoded, chosen: Sequence[int]) -> Iterator[TaskBatch]:
        size = self.config.micro_batch_size
        for start in range(0, len(chosen), size):
            part = pack_task(examples, chosen[start : start + size], self.config.row_tokens)
            yield part.to(self.world.device)

    def counts(self, batch: TaskBatch) -> dict[str, float]:
        examples = float(len(batch.labels))
        text = {"language_modelling": batch.rows.count} if self.config.auxiliary_weight else {}
        return {self.error: examples, **({} if self.examples.scored else {"accuracy": examples}), **text}

    def terms(self, batch: TaskBatch) -> dict[str, Term]:
        loss, text, logits = losses(self.module, batch)
        terms = {self.error: Term(loss)}
        if not self.examples.scored:
            terms["accuracy"] = Term((logits.argmax(-1) == batch.labels).sum(), weight=0.0)
        if self.config.auxiliary_weight:
            terms["language_modelling"] = Term(text, weight=self.config.auxiliary_weight)
        return terms

    def describe_batch(self, step: int) -> dict[str, Any]:
        first = step * self.config.batch_size
        chosen = [self._example(index) for index in range(first, first + self.config.batch_size)]
        return {"epoch": first // len(self.examples), "examples": chosen}

    @torch.no_grad()
    def evaluate(self, final: bool) -> dict[str, Any]:
        """Loss, and accuracy or correlation, on the held-out examples; keeps what is `predicted` of them: the
        probabilities of the labels, or the one score."""
        if not len(self.held_out):
            return {}
        order = sorted(range(len(self.held_out)), key=self.held_out.tokens)
        predicted: list[list[float]] = [[]] * len(order)
        loss = 0.0
        for start in range(0, len(order), self.config.micro_batch_size):
            chosen = order[start : start + self.config.micro_batch_size]
            batch = pack_task(self.held_out, chosen, self.config.row_tokens).to(self.world.device)
            each, _, logits = losses(self.module, batch)
            loss += float(each)
            found = logits.float() if self.held_out.scored else torch.softmax(logits.float(), -1)
            for example, row in zip(chosen, found.tolist(), strict=True):
                predicted[example] = row
        self.predicted = predicted
        return {"held_out_loss": loss / len(order)} | self._figure()

    def _figure(self) -> dict[str, float]:
        """How good the last evaluation was."""
        labels = self.held_out.labels
        if self.held_out.scored:
            return {"held_out_pearson": pearson(np.array(self.predicted)[:, 0], np.array(labels))}
        return {"held_out_accuracy": sum(map(_is_right, self.predicted, labels)) / len(labels)}


def _is_right(probabilities: list[float], label: float) -> bool:
    return max(range(len(probabilities)), key=probabilities.__getitem__) == label
