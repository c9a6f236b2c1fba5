"""Answers behind their prompts as rows of tokens, and where each answer's tokens are predicted.

The answers to one prompt stand in one row: each behind a prompt of its own (`lay_out`), where positions and attention
restart, or all behind one prompt (`lay_out_shared`), where they do not see each other. Both give an answer the same
log-probabilities (tested). Shapes: R rows, T row length, A answers, N predicted tokens of all answers in order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trine.data.packing import pack_answers, pad

Group = tuple[Sequence[int], Sequence[Sequence[int]]]
"""a prompt and the answers to it, as token ids"""


@dataclass(frozen=True)
class ReplyRows:
    """Token n of all answers, `targets`[n], is predicted at (`rows`[n], `columns`[n]) of `ids` [R, T].

    `lengths` [A]: how many tokens of each answer are predicted, in order. `starts` or `segments` [R, T] say what a
    position sees: from `starts`[t] to itself; or the prompt and its own answer (`AnswerRows`).
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    lengths: Tensor
    starts: Tensor | None = None
    segments: Tensor | None = None

    def to(self, device: torch.device) -> "ReplyRows":
        tensors = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **tensors)


def predicted_tokens(prompt: Sequence[int], answer: Sequence[int]) -> int:
    """How many of an answer's tokens something stands before: all, but the first where there is no prompt."""
    return len(answer) if prompt else len(answer) - 1


def lay_out(groups: Sequence[Group]) -> ReplyRows:
    """One row for each group, every answer behind a prompt of its own."""
    sequences = [[[*prompt, *answer] for answer in answers] for prompt, answers in groups]
    ids, _ = pad([[token for sequence in row for token in sequence] for row in sequences], 0)
    starts = torch.arange(ids.shape[1]).repeat(len(ids), 1)  # a padding position sees itself
    positions = torch.zeros_like(ids)
    for row, of_row in enumerate(sequences):
        begin = 0
        for sequence in of_row:
            end = begin + len(sequence)
            starts[row, begin:end], positions[row, begin:end] = begin, torch.arange(len(sequence))
            begin = end
    return _with_targets(groups, ids, positions, list(_repeated(groups)), starts=starts)


def _repeated(groups: Sequence[Group]) -> Iterator[tuple[int, int, int]]:
    """(row, column that predicts an answer's first token, column of that token) of every answer."""
    for row, (prompt, answers) in enumerate(groups):
        begin = 0
        for answer in answers:
            first = begin + len(prompt)
            yield row, first - 1, first
            begin = first + len(answer)


def lay_out_shared(groups: Sequence[Group]) -> ReplyRows:
    """One row for each group of two answers, both behind the one prompt."""
    packed = pack_answers([(prompt, answers[0], answers[1]) for prompt, answers in groups])
    places = [
        (row, len(prompt) - 1, int(packed.ends[row, number]) - len(answer) + 1)
        for row, (prompt, answers) in enumerate(groups)
        for number, answer in enumerate(answers)
    ]
    return _with_targets(groups, packed.ids, packed.positions, places, segments=packed.segments)


def _with_targets(
    groups: Sequence[Group], ids: Tensor, positions: Tensor, places: Sequence[tuple[int, int, int]], **seen: Tensor
) -> ReplyRows:
    """`places`: (row, column that predicts the first token, column of that token) of every answer."""
    rows: list[int] = []
    columns: list[int] = []
    lengths: list[int] = []
    answers = [(prompt, answer) for prompt, of_prompt in groups for answer in of_prompt]
    for (prompt, answer), (row, before, first) in zip(answers, places, strict=True):
        predicting = [before, *range(first, first + len(answer) - 1)]
        lengths.append(predicted_tokens(prompt, answer))
        columns += predicting[len(predicting) - lengths[-1] :]
        rows += [row] * lengths[-1]
    targets = [
        token for prompt, answer in answers for token in answer[len(answer) - predicted_tokens(prompt, answer) :]
    ]
    return ReplyRows(ids, positions, *(torch.tensor(each) for each in (rows, columns, targets, lengths)), **seen)
