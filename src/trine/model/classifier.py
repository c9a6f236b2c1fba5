"""GPT-1's discriminative model: a linear head on the hidden state of the extract token (Radford et al. 2018, eq. 3).

The input of a task is one reading or several, each between the new tokens start and extract, two texts of a reading
with a delimiter between them:

    classify   start text extract                        C labels
    entail     start premise delimiter hypothesis extract            C labels
    similar    both orders of the two texts; their states are added before the head
    choose     start context delimiter option extract, for each option; one logit each, softmax over the options

The head has no bias, as that of `...ForSequenceClassification` has none, and computes in fp32.

Shapes: R rows, T time, M readings, N examples, D width, C labels, K options.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trine.model.heads import head_product
from trine.model.transformer import Transformer
from trine.records import Task
from trine.runtime.seeds import derive_seed


@dataclass(frozen=True)
class TaskTokens:
    """Names of the three special tokens that a task's input is written with."""

    start: str = "<|start|>"
    delimiter: str = "<|delimiter|>"
    extract: str = "<|extract|>"

    @property
    def names(self) -> tuple[str, str, str]:
        return self.start, self.delimiter, self.extract


@dataclass(frozen=True)
class TaskSettings:
    """What a head was trained for. `labels`: names of the classes in the order of the head's rows; of choose one."""

    task: Task
    labels: tuple[str, ...]
    tokens: TaskTokens = field(default_factory=TaskTokens)


class LabelHead(nn.Module):
    """Maps hidden states [..., D] to logits [..., C], in fp32."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(labels, width))

    def forward(self, hidden: Tensor) -> Tensor:
        return head_product(hidden, self.weight)


class TaskModel(nn.Module):
    """A Transformer with a head for one task.

    Example::

        task = TaskModel(model, TaskSettings("classify", ("neg", "pos")))
        task.initialize_head(seed=0)
        hidden, logits = task(ids, ends=torch.tensor([[0, 9], [1, 9]]), owners=torch.tensor([0, 1]))
    """

    def __init__(self, trunk: Transformer, settings: TaskSettings) -> None:
        super().__init__()
        self.trunk, self.settings = trunk, settings
        self.classifier = LabelHead(trunk.config.width, len(settings.labels))

    @torch.no_grad()
    def initialize_head(self, seed: int) -> None:
        """N(0, 0.02^2), as in the paper, from `seed` alone."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "task head"))
        weight = self.classifier.weight
        weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))

    def forward(self, ids: Tensor, ends: Tensor, owners: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """(hidden states [R, T, D], logits [N, C], of a choice [N, K]) of readings packed in rows `ids` [R, T].

        `ends` [M, 2]: row and column of each reading's extract token; `owners` [M]: the example of each, ascending.
        `inputs` are what else `Transformer.forward` takes. A choice of fewer than K options has -inf for the others.
        """
        hidden = self.trunk(ids, **inputs)
        states = hidden[ends[:, 0], ends[:, 1]].float()  # [M, D]
        examples = int(owners[-1]) + 1
        if self.settings.task == "choose":
            return hidden, _side_by_side(self.classifier(states).squeeze(-1), owners, examples)
        added = states.new_zeros(examples, states.shape[1]).index_add(0, owners, states)
        return hidden, self.classifier(added)


def _side_by_side(logits: Tensor, owners: Tensor, examples: int) -> Tensor:
    """The logits [M] of each example's options in a row of their own [N, K]."""
    counts = torch.bincount(owners, minlength=examples)
    firsts = counts.cumsum(0) - counts
    columns = torch.arange(len(owners), device=owners.device) - firsts[owners]
    apart = logits.new_full((examples, int(counts.max())), float("-inf"))
    return apart.index_put((owners, columns), logits)


def reading_ids(
    tokens: Sequence[int], texts: Sequence[Sequence[int]], room: int, side: Literal["left", "right"] = "right"
) -> tuple[list[int], list[bool]]:
    """A reading of encoded texts, and for each token whether it is of a text; of at most `room` tokens.

    `tokens` are the ids of start, delimiter and extract. Too long a reading loses the right or left `side` of its
    longest text, as far as that is longer than the other, and then of both.

    >>> reading_ids((7, 8, 9), ([1, 2, 3], [4]), room=6)
    ([7, 1, 2, 8, 4, 9], [False, True, True, False, True, False])
    """
    start, delimiter, extract = tokens
    lengths = _fitting([len(text) for text in texts], room - len(texts) - 1)
    ids, of_text = [start], [False]
    for place, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        if place:
            ids.append(delimiter)
            of_text.append(False)
        ids += text[:length] if side == "right" else text[len(text) - length :]
        of_text += [True] * length
    return [*ids, extract], [*of_text, False]


def _fitting(lengths: list[int], room: int) -> list[int]:
    """Lengths of at most `room` together, the longest cut first."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [max(room, 0)]
    shorter = min(*lengths, max(room, 0) // 2)
    longer = max(room, 0) - shorter
    return [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]
