"""From logits to tokens for a mixed batch: plain rows are sampled in the runner, the others pass their filters first.

A plain row is sampled by the same code whether or not its neighbours have filters, so they cannot change its tokens.
Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trine.engine.filters import filtered_logits
from trine.engine.request import Request, SampledToken
from trine.engine.runner import Runner, SamplingState
from trine.engine.sampling import Sampling, sample
from trine.runtime.errors import TrineError

DAMAGED = "the model's logits are not numbers: its weights are damaged or have diverged"
NO_TOKEN = "the request's logit_bias, penalties and constraint leave no token that could come next; loosen one of them"
Sampled = SampledToken | TrineError


def sampled_token(token_id: int, log_prob: float) -> Sampled:
    """What a runner has sampled; its id is -1 where the row's logits are not numbers."""
    return SampledToken(token_id, log_prob) if token_id >= 0 else TrineError(DAMAGED)


def sample_next(
    runner: Runner, logits: Tensor, requests: Sequence[Request], states: Sequence[SamplingState]
) -> list[Sampled]:
    """One token for every row of `logits` [B, V], which are those of the runner's last `forward`.

    A row that is damaged, or whose own settings fail or leave it no token, gets an error instead.
    """
    sampled: dict[int, Sampled] = {}
    plain = [row for row, request in enumerate(requests) if not request.sampling.filtered]
    ids, log_probs = runner.sample(plain, [states[row] for row in plain]) if plain else ([], [])
    for row, token_id, log_prob in zip(plain, ids, log_probs, strict=True):
        sampled[row] = sampled_token(token_id, log_prob)
    for rows in _alike([row for row in range(len(requests)) if row not in sampled], requests):
        sampled |= _sample_guarded(logits, rows, requests, states)
    return [_reported(sampled[row], logits[row], request.sampling) for row, request in enumerate(requests)]


def _alike(rows: Sequence[int], requests: Sequence[Request]) -> list[list[int]]:
    """Rows grouped by their settings, so that each group passes the filters together."""
    groups: dict[Sampling, list[int]] = {}
    for row in rows:
        groups.setdefault(requests[row].filters, []).append(row)
    return list(groups.values())


def _sample_guarded(
    logits: Tensor, rows: list[int], requests: Sequence[Request], states: Sequence[SamplingState]
) -> dict[int, Sampled]:
    """Tokens of the rows, which share their settings; where filtering raises, each row goes alone and fails alone."""
    try:
        return _sample_filtered(logits, rows, requests, states)
    except Exception as error:
        if len(rows) == 1:
            return {rows[0]: TrineError(f"filtering the logits of the request failed: {error!r}")}
    alone: dict[int, Sampled] = {}
    for row in rows:
        alone |= _sample_guarded(logits, [row], requests, states)
    return alone


def _sample_filtered(
    logits: Tensor, rows: list[int], requests: Sequence[Request], states: Sequence[SamplingState]
) -> dict[int, Sampled]:
    allowed, failed = _allowed(rows, requests)
    rows = [row for row in rows if row not in failed]
    if not rows:
        return failed
    group = [requests[row] for row in rows]
    sampling, chosen = group[0].sampling, logits[rows]  # [B, V]
    mask = torch.stack([allowed[row] for row in rows]).to(logits.device) if allowed else None
    filtered = filtered_logits(
        chosen, sampling, [request.prompt_ids for request in group], [request.ids for request in group], mask
    )
    seeds = torch.tensor([states[row].seed for row in rows], device=logits.device)
    counters = torch.tensor([states[row].counter for row in rows], device=logits.device)
    # Non-finite logits come from the model, not from the filters; both leave rows that nothing can be sampled from.
    damaged = ~chosen.isfinite().all(-1)
    possible = filtered.amax(-1).isfinite() & ~damaged
    filtered = torch.where(possible.unsqueeze(1), filtered, 0.0)
    ids, log_probs = sample(filtered, 1.0 if sampling.temperature else 0.0, seeds, counters)
    own = torch.log_softmax(chosen.float() / (sampling.temperature or 1.0), -1).gather(1, ids.unsqueeze(1)).squeeze(1)
    columns = (ids.tolist(), log_probs.tolist(), own.tolist(), possible.tolist(), damaged.tolist())
    return failed | {
        row: SampledToken(token_id, log_prob, unfiltered) if fine else TrineError(DAMAGED if no_numbers else NO_TOKEN)
        for row, token_id, log_prob, unfiltered, fine, no_numbers in zip(rows, *columns, strict=True)
    }


def _allowed(rows: Sequence[int], requests: Sequence[Request]) -> tuple[dict[int, Tensor], dict[int, Sampled]]:
    """Each constrained row's mask [V] of allowed tokens, and the errors of those whose constraint raises."""
    masks: dict[int, Tensor] = {}
    failed: dict[int, Sampled] = {}
    for row in rows:
        matcher = requests[row].matcher
        if matcher is None:
            continue
        try:
            masks[row] = matcher.allowed()
        except TrineError as error:
            failed[row] = error
        except Exception as error:  # whatever it is, it is this request's alone
            failed[row] = TrineError(f"the constraint of the request failed: {error!r}")
    return masks, failed


def _reported(token: Sampled, logits: Tensor, sampling: Sampling) -> Sampled:
    """The token with the most likely ones beside it where the request asks for them; `logits` [V]."""
    if not sampling.top_log_probs or isinstance(token, TrineError):
        return token
    try:
        values, ids = torch.log_softmax(logits.float() / (sampling.temperature or 1.0), -1).topk(sampling.top_log_probs)
        return replace(token, top_log_probs=tuple(zip(ids.tolist(), values.tolist(), strict=True)))
    except Exception as error:
        return TrineError(f"the log-probabilities of the most likely tokens failed: {error!r}")
