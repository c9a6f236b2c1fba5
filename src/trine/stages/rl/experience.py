"""What one iteration of online RL learns from: rollouts as tensors, with their scores and advantages.

Rows are prompt + response, right-padded: causality keeps the padding out, so padding changes nothing.
Of a conversation of several turns only what the policy wrote is learned from: no mask, no flat tensor and no figure
holds a token that it did not write. Shapes: B responses, T row length, R longest response, N response tokens that the
policy wrote, of all rows (row by row).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trine.data.packing import pad
from trine.records import Answer, Rollout


@dataclass(frozen=True)
class PaddedRollouts:
    """Rollouts as tensors: `ids` [B, T]; response token n of all N is predicted at (`rows`[n], `columns`[n])."""

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor


def pad_rollouts(rollouts: Sequence[Rollout], pad_id: int, device: torch.device) -> PaddedRollouts:
    """The tensors of a (micro-)batch of rollouts."""
    ids, _ = pad([[*rollout.prompt_ids, *rollout.response_ids] for rollout in rollouts], pad_id)
    rows = torch.tensor([row for row, rollout in enumerate(rollouts) for _ in rollout.written_places])
    columns = torch.tensor(
        [len(rollout.prompt_ids) - 1 + place for rollout in rollouts for place in rollout.written_places]
    )
    targets = ids[rows, columns + 1]
    return PaddedRollouts(ids.to(device), rows.to(device), columns.to(device), targets.to(device))


@dataclass(frozen=True)
class TokenFigures:
    """Of the policy that sampled, and of the reference: one number per response token, [B, R] or flat [N].

    They come from the trainer's own forward pass, at the temperature of sampling.
    """

    old_log_probs: Tensor
    old_values: Tensor
    reference_log_probs: Tensor


@dataclass(frozen=True)
class UpdateBatch(TokenFigures):
    """What an update learns from, flat: every tensor is [N], on the device of the policy."""

    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class Experience:
    """One iteration's rollouts and everything computed once about them; padded tensors are [B, R] on the CPU.

    `scores` [B] are the reward's own; `rewards` are what every token earns. `answers`: the rollouts as rewards see
    them.
    """

    rollouts: list[Rollout]
    scores: Tensor
    mask: Tensor
    old_log_probs: Tensor
    old_values: Tensor
    reference_log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    rewards: Tensor
    answers: Sequence[Answer] = ()

    def flat(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """`values` [B, R] at the response tokens of `rows`, as [N]."""
        chosen = list(rows)
        return values[chosen][self.mask[chosen]]

    def update_batch(self, rows: Sequence[int], device: torch.device) -> UpdateBatch:
        """The response tokens of `rows`."""
        names = UpdateBatch.__dataclass_fields__
        return UpdateBatch(**{name: self.flat(getattr(self, name), rows).to(device) for name in names})


def response_mask(rollouts: Sequence[Rollout]) -> Tensor:
    """[B, R]: which places hold response tokens that the policy wrote."""
    mask = torch.zeros(len(rollouts), max(len(rollout.response_ids) for rollout in rollouts), dtype=torch.bool)
    for row, rollout in enumerate(rollouts):
        mask[row, list(rollout.written_places)] = True
    return mask


def fill_rows(padded: Tensor, mask: Tensor, rows: Sequence[int], flat: Tensor) -> None:
    """Write flat [N] values of `rows` into their places of `padded` [B, R]."""
    chosen = list(rows)
    block = padded[chosen]
    block[mask[chosen]] = flat.cpu()
    padded[chosen] = block


def final_scores(
    scores: Tensor, rollouts: Sequence[Rollout], missing_eos_penalty: float, missing_eos_score: float | None
) -> Tensor:
    """Scores [B]; one without an end token pays the penalty, or has `missing_eos_score` in place of the reward's."""
    cut = torch.tensor([not rollout.ended for rollout in rollouts])
    if missing_eos_score is not None:
        scores = torch.where(cut, missing_eos_score, scores)
    return torch.where(cut, scores - missing_eos_penalty, scores)
