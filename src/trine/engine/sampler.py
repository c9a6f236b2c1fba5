"""From logits to tokens for a mixed batch: plain rows draw in the runner, the others pass their filters first.

A plain row is drawn by the same code whether or not its neighbours have filters, so they cannot change its tokens.
Shapes: V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trine.engine.filters import filtered_logits
from trine.engine.request import Request, SampledToken
from trine.engine.runner import DrawState, Runner
from trine.engine.sampling import Sampling, draw
from trine.runtime.errors import TrineError

NO_TOKEN = "the request's logit_bias, penalties and constraint leave no token that could come next; loosen one of them"


def choose(
    runner: Runner, logits: Tensor, requests: Sequence[Request], states: Sequence[DrawState]
) -> list[SampledToken | TrineError]:
    """One token for every row of `logits` [rows, V], which are those of the runner's last `forward`.

    A row whose own filters leave it no token gets an error instead.
    """
    drawn: dict[int, SampledToken | TrineError] = {}
    plain = [row for row, request in enumerate(requests) if not request.sampling.filtered]
    ids, log_probs = runner.draw(plain, [states[row] for row in plain]) if plain else ([], [])
    for row, token_id, log_prob in zip(plain, ids, log_probs, strict=True):
        top = _top(logits[row], requests[row].sampling)
        drawn[row] = SampledToken(token_id, log_prob, top_log_probs=top)
    for rows in _alike([row for row in range(len(requests)) if row not in drawn], requests):
        drawn |= _choose_filtered(logits, rows, requests, states)
    return [drawn[row] for row in range(len(requests))]


def _alike(rows: Sequence[int], requests: Sequence[Request]) -> list[list[int]]:
    """Rows grouped by their settings, so that each group passes the filters together."""
    groups: dict[Sampling, list[int]] = {}
    for row in rows:
        groups.setdefault(replace(requests[row].sampling, seed=0, max_new_tokens=1), []).append(row)
    return list(groups.values())


def _choose_filtered(
    logits: Tensor, rows: list[int], requests: Sequence[Request], states: Sequence[DrawState]
) -> dict[int, SampledToken | TrineError]:
    group = [requests[row] for row in rows]
    sampling, chosen = group[0].sampling, logits[rows]
    allowed = None
    if sampling.constraint is not None:
        allowed = torch.stack([request.matcher.allowed() for request in group if request.matcher]).to(logits.device)
    filtered = filtered_logits(
        chosen, sampling, [request.prompt_ids for request in group], [request.ids for request in group], allowed
    )
    possible = filtered.amax(-1).isfinite() | ~chosen.isfinite().all(-1)  # numbers that are none are the model's fault
    filtered = torch.where(possible.unsqueeze(1), filtered, 0.0)
    seeds = torch.tensor([states[row].seed for row in rows], device=logits.device)
    counters = torch.tensor([states[row].counter for row in rows], device=logits.device)
    ids, log_probs = draw(filtered, 1.0 if sampling.temperature else 0.0, seeds, counters)
    own = torch.log_softmax(chosen.float() / (sampling.temperature or 1.0), -1).gather(1, ids.unsqueeze(1)).squeeze(1)
    columns = (ids.tolist(), log_probs.tolist(), own.tolist())
    drawn: dict[int, SampledToken | TrineError] = {
        row: SampledToken(token_id, log_prob, unfiltered, _top(logits[row], sampling))
        for row, token_id, log_prob, unfiltered in zip(rows, *columns, strict=True)
    }
    return drawn | {row: TrineError(NO_TOKEN) for row, fine in zip(rows, possible.tolist(), strict=True) if not fine}


def _top(logits: Tensor, sampling: Sampling) -> tuple[tuple[int, float], ...] | None:
    if not sampling.top_log_probs:
        return None
    values, ids = torch.log_softmax(logits.float() / (sampling.temperature or 1.0), -1).topk(sampling.top_log_probs)
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))
