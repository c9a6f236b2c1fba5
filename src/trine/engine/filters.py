"""Everything that changes the distribution before a token is sampled. `Sampling` says what acts, and in which order.

Shapes: B rows that share their settings, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trine.engine.sampling import Sampling


def filtered_logits(
    logits: Tensor,
    sampling: Sampling,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    allowed: Tensor | None = None,
) -> Tensor:
    """Logits [B, V] fp32 to sample from at temperature 1 (0 where `sampling` is greedy); -inf is what was cut.

    `logits` [B, V] as the model gives them; `prompts`, `responses` the ids of every row so far; `allowed` [B, V] bool
    of the constraint.
    """
    logits = logits.float().clone()
    for token_id, bias in sampling.logit_bias:
        logits[:, token_id] += bias
    if sampling.penalized:
        _penalize(logits, sampling, prompts, responses)
    if allowed is not None:
        logits.masked_fill_(~allowed, float("-inf"))
    if sampling.temperature == 0:
        return logits
    logits /= sampling.temperature
    if sampling.top_k:
        keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        keep_min_p(logits, sampling.min_p)
    return logits


def _penalize(
    logits: Tensor, sampling: Sampling, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> None:
    for row, prompt, response in zip(logits, prompts, responses, strict=True):
        if sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted({*prompt, *response}), device=row.device)
            scores = row[seen]
            worse = torch.where(scores < 0, scores * sampling.repetition_penalty, scores / sampling.repetition_penalty)
            row[seen] = worse
        if response:
            tokens, times = torch.tensor(list(response), device=row.device).unique(return_counts=True)
            row[tokens] -= times * sampling.frequency_penalty + sampling.presence_penalty


def keep_top_k(logits: Tensor, k: int) -> None:
    """Cut all below the k-th largest of each row, in place; equals of the k-th stay."""
    if k < logits.shape[1]:
        logits.masked_fill_(logits < logits.topk(k).values[:, -1:], float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> None:
    """Keep the fewest most likely tokens whose probabilities reach `p` together, in place."""
    ordered, order = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    cut = (before >= p).scatter(1, order, before >= p)
    cut[torch.arange(len(cut)), order[:, 0]] = False
    logits.masked_fill_(cut, float("-inf"))


def keep_min_p(logits: Tensor, p: float) -> None:
    """Cut what is less likely than `p` times the most likely token, in place."""
    floor = logits.amax(-1, keepdim=True) + torch.log(torch.tensor(p, device=logits.device))
    logits.masked_fill_(logits < floor, float("-inf"))
