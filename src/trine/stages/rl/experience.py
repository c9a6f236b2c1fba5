"""What one iteration of online RL learns from: rollouts as tensors, with their scores and advantages.

Rows are prompt + response, right-padded: causality keeps the padding out, so padding changes nothing. Responses to one
prompt can share a row and the prompt, which is then read once for all of them.
Of a conversation of several turns only what the policy wrote is learned from: no mask, no flat tensor and no figure
holds a token that it did not write. Shapes: B responses, T row length, R longest response, N response tokens that the
policy wrote, of all rows (row by row).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.text_groups import Aggregation, token_weights
from trine.data.packing import pack_answers, pad
from trine.records import Answer, Rollout
from trine.stages.rl.exchange import rollouts_as_bytes, rollouts_from_bytes


@dataclass(frozen=True)
class PaddedRollouts:
    """Rollouts as tensors: `ids` [B, T]; response token n of all N is predicted at (`rows`[n], `columns`[n]).

    `owners` [N]: the rollout that each token is of. `seen`: what else `Transformer.forward` takes to read `ids`.
    """

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    owners: Tensor
    seen: Mapping[str, Tensor] = field(default_factory=dict)


def pad_rollouts(
    rollouts: Sequence[Rollout], pad_id: int, device: torch.device, *, share_prompts: bool = False
) -> PaddedRollouts:
    """The tensors of a (micro-)batch of rollouts, a row for each; or for each prompt, with all responses to it."""
    if share_prompts:
        return _behind_shared_prompts(rollouts, device)
    ids, _ = pad([[*rollout.prompt_ids, *rollout.response_ids] for rollout in rollouts], pad_id)
    rows = torch.tensor([row for row, rollout in enumerate(rollouts) for _ in rollout.written_places])
    columns = torch.tensor(
        [len(rollout.prompt_ids) - 1 + place for rollout in rollouts for place in rollout.written_places]
    )
    targets = ids[rows, columns + 1]
    ids, rows, columns, targets = (each.to(device) for each in (ids, rows, columns, targets))
    return PaddedRollouts(ids, rows, columns, targets, owners=rows)


def _behind_shared_prompts(rollouts: Sequence[Rollout], device: torch.device) -> PaddedRollouts:
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, rollout in enumerate(rollouts):
        of_prompt.setdefault(tuple(rollout.prompt_ids), []).append(number)
    packed = pack_answers([[p, *(rollouts[each].response_ids for each in of)] for p, of in of_prompt.items()])
    places = {each: (row, place) for row, of in enumerate(of_prompt.values()) for place, each in enumerate(of)}
    found: list[tuple[int, int, int, int]] = []  # row, column, target, owner
    for number, rollout in enumerate(rollouts):
        first = int(packed.ends[places[number]]) + 1 - len(rollout.response_ids)
        for place in rollout.written_places:
            column = first + place - 1 if place else len(rollout.prompt_ids) - 1
            found.append((places[number][0], column, rollout.response_ids[place], number))
    rows, columns, targets, owners = torch.tensor(found).to(device).unbind(1)
    seen = {"positions": packed.positions.to(device), "segments": packed.segments.to(device)}
    return PaddedRollouts(packed.ids.to(device), rows, columns, targets, owners, seen)


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
    """What an update learns from, flat: every tensor is [N], on the device of the policy.

    `importance`: the weight of each token's policy loss. `weights`: what each token counts in the loss, which depends
    on how losses are aggregated. `owners`: the response of each token, of `responses`.
    """

    advantages: Tensor
    returns: Tensor
    importance: Tensor
    weights: Tensor
    owners: Tensor
    responses: int


@dataclass(frozen=True)
class Experience:
    """One iteration's rollouts and everything computed once about them; padded tensors are [B, R] on the CPU.

    `scores` [B] are the reward's own, NaN where it does not apply to a response. `learned` [B, R] marks the tokens that
    updates learn from.
    `rewards` are what every token earns. `answers`: this process's rollouts as rewards see them; none once resumed.
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
    importance: Tensor
    learned: Tensor
    answers: Sequence[Answer] = ()

    def flat(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """`values` [B, R] at the response tokens of `rows`, as [N]."""
        chosen = list(rows)
        return values[chosen][self.mask[chosen]]

    def update_batch(
        self, rows: Sequence[int], device: torch.device, aggregation: Aggregation = "token"
    ) -> UpdateBatch:
        """The response tokens of `rows` that are learned from."""
        chosen = list(rows)
        learned = self.learned[chosen]
        names = UpdateBatch.__dataclass_fields__.keys() & self.__dataclass_fields__.keys()
        figures = {name: getattr(self, name)[chosen][learned].to(device) for name in names}
        weights, owners = token_weights(learned, aggregation)[learned], learned.nonzero()[:, 0]
        return UpdateBatch(**figures, weights=weights.to(device), owners=owners.to(device), responses=len(chosen))

    def learned_of(self, rows: Sequence[int], flat: Tensor) -> Tensor:
        """Of something [N] of all response tokens of `rows`, that of the tokens that are learned from."""
        kept = self.flat(self.learned, rows)
        return flat if bool(kept.all()) else flat[kept.to(flat.device)]

    def tensors(self) -> dict[str, Tensor]:
        """All of it but the answers, for a checkpoint."""
        names = [name for name in self.__dataclass_fields__ if name not in ("rollouts", "answers")]
        return {"rollouts": rollouts_as_bytes(self.rollouts), **{name: getattr(self, name) for name in names}}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Experience":
        """What `tensors` gave."""
        rest: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if name != "rollouts"}
        return cls(rollouts=rollouts_from_bytes(tensors["rollouts"]), **rest)


def response_mask(rollouts: Sequence[Rollout]) -> Tensor:
    """[B, R]: which places hold response tokens that the policy wrote."""
    mask = torch.zeros(len(rollouts), max(len(rollout.response_ids) for rollout in rollouts), dtype=torch.bool)
    for row, rollout in enumerate(rollouts):
        mask[row, list(rollout.written_places)] = True
    return mask


def padded_log_probs(rollouts: Sequence[Rollout], mask: Tensor) -> Tensor:
    """The engine's log-probabilities [B, R], 0 where `mask` is not set."""
    found = torch.zeros(mask.shape)
    for row, rollout in enumerate(rollouts):
        found[row, : len(rollout.log_probs)] = torch.tensor(rollout.log_probs)
    return torch.where(mask, found, 0.0)


def importance_weights(rollouts: Sequence[Rollout], old_log_probs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """min(pi / pi of the engine, `cap`) of every token [B, R] (Yao et al. 2025, truncated importance sampling)."""
    return torch.where(mask, (old_log_probs - padded_log_probs(rollouts, mask)).exp().clamp(max=cap), 1.0)


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
