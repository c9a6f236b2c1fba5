"""What best of n says of two rewards, as numbers: curves, the share of a gain that the other keeps, the KL to spend.

Scores are [P, N], N samples of each of P prompts. Gains are in deviations of all samples' scores, as `trine evaluate`
counts those of PPO, so that the two can stand beside each other. Every interval is over prompts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.statistics import Estimate, Interval, mean_estimate, ratio_estimate
from trine.algorithms.text_best_of_n import (
    best_of_n_means,
    best_of_n_nats,
    conditioning_nats,
    exact_best_of_n_nats,
    tilting_nats,
)
from trine.algorithms.text_correlation import concordance
from trine.stages.preferences.figures import with_interval

Floats = NDArray[np.float64]
MIN_PROMPTS = 5
"""Fewer say nothing of others."""


@dataclass(frozen=True)
class Scores:
    """Scores of the same answers by the reward that chooses and by the other, [P, N] each, and the answers' texts."""

    reward: Floats
    other: Floats
    texts: Sequence[Sequence[str]]


def preview_figures(scores: Scores) -> dict[str, Any]:
    """All that the stage reports; figures are {mean, interval, items}, the interval null where prompts are too few."""
    deviations = [float(values.std()) or 1.0 for values in (scores.reward, scores.other)]
    sizes = best_of_sizes(scores.reward.shape[1])
    means = {n: best_of_n_means(scores.reward, scores.other, n) for n in sizes}
    gains = {n: [(own - means[1][side]) / deviations[side] for side, own in enumerate(means[n])] for n in sizes}
    rows = [_row(n, gains[n], scores) for n in sizes]
    return {
        "prompts": len(scores.reward),
        "samples": scores.reward.shape[1],
        "reward_deviation": deviations[0],
        "other_deviation": deviations[1],
        "rows": rows,
        "share_kept": rows[-1]["share_kept"],
        "spend": spend({n: gains[n][1] for n in sizes}),
        "agreement": _agreement(scores),
        "repeats": repeats(scores.texts),
        "above_zero": _above_zero(scores.reward),
    }


def best_of_sizes(samples: int) -> list[int]:
    """1, 2, 4 ... up to `samples`, which is the last.

    >>> best_of_sizes(12)
    [1, 2, 4, 8, 12]
    """
    powers = [2**power for power in range(samples.bit_length())]
    return powers if powers[-1] == samples else [*powers, samples]


def _row(n: int, gains: Sequence[Floats], scores: Scores) -> dict[str, Any]:
    """One n: how far it is from the policy, and what each reward gains, prompts alike."""
    own, other = (gain.tolist() for gain in gains)
    mean = float(np.mean(own))
    return {
        "n": n,
        "nats": best_of_n_nats(n),
        "estimated_nats": estimated_nats(scores, n),
        "tilting_nats": tilting_nats(mean),
        "reward": _over_prompts(mean_estimate(own)),
        "other": _over_prompts(mean_estimate(other)),
        "share_kept": _over_prompts(ratio_estimate(other, own)) if mean > 0 else None,
    }


def _over_prompts(estimate: Estimate) -> dict[str, Any]:
    """A figure whose items are prompts, without an interval where these are few."""
    return with_interval(estimate.mean, estimate.interval if estimate.items >= MIN_PROMPTS else None, estimate.items)


def estimated_nats(scores: Scores, n: int) -> float:
    """The KL of best of n where the answers that were sampled, as often as they were, are all there are: of few
    different answers what it is, of many hardly below the bound until n nears the number of samples."""
    return float(np.mean([_prompt_nats(row, texts, n) for row, texts in zip(scores.reward, scores.texts, strict=True)]))


def _prompt_nats(scores: Floats, texts: Sequence[str], n: int) -> float:
    counts = Counter(zip(texts, scores.tolist(), strict=True))  # one text may have ended once and been cut once
    return exact_best_of_n_nats([count / len(texts) for count in counts.values()], [score for _, score in counts], n)


def spend(gains: dict[int, Floats]) -> dict[str, Any]:
    """Up to which n the other reward is shown to rise, and from which n on it is shown to have fallen again.

    `gains` [P] of the other reward by n. A rise from one n to the next is shown where the 95% interval of its paired
    differences is above 0; a fall, where that of the differences to the last n that was shown to rise is below.
    """
    sizes, known = list(gains), len(gains[1]) >= MIN_PROMPTS
    rising = [b for a, b in pairwise(sizes) if known and _interval(gains[b] - gains[a]).low > 0]
    n = max(rising, default=1)
    falling = [b for b in sizes if known and b > n and _interval(gains[b] - gains[n]).high < 0]
    return {
        "n": n, "nats": best_of_n_nats(n), "rises_to_the_end": n == sizes[-1],
        "falls_from": min(falling, default=None), "known": known,
    }  # fmt: skip


def _interval(differences: Floats) -> Interval:
    found = mean_estimate(differences.tolist()).interval
    assert found is not None  # of one prompt nothing is known, and nothing is asked
    return found


def _agreement(scores: Scores) -> dict[str, Any] | None:
    """Of two answers to one prompt, how often both rewards prefer the same one."""
    each = [concordance(own, other) for own, other in zip(scores.reward, scores.other, strict=True)]
    known = [value for value in each if np.isfinite(value)]
    return _over_prompts(mean_estimate(known)) if known else None


def repeats(texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Answers that were sampled before for the same prompt: how many, and of how many prompts.

    >>> repeats([["a", "b", "a"], ["a", "b", "c"]])["answers"]
    1
    """
    repeated = [len(each) - len(set(each)) for each in texts]
    total = sum(map(len, texts))
    return {"answers": sum(repeated), "share": sum(repeated) / total, "prompts": sum(count > 0 for count in repeated)}


def _above_zero(scores: Floats) -> dict[str, Any]:
    """The share of answers that score above 0, and what it costs to write none but those (of log-odds: the good)."""
    share = float((scores > 0).mean())
    return {"share": share, "nats": conditioning_nats(share) if share else None}


def predicted_share(rows: Sequence[dict[str, Any]], gain: float) -> tuple[float, bool]:
    """The share that the preview's curve keeps of a gain of so many deviations, and whether the curve reaches that far.

    `rows` as in `preview_figures`. Between two n it is interpolated; beyond the last n its share is taken.
    """
    own = [row["reward"]["mean"] for row in rows]
    other = [row["other"]["mean"] for row in rows]
    if gain <= 0 or own[-1] <= 0:
        raise ValueError(f"a gain of {gain} has no share to keep")
    if gain > own[-1]:
        return other[-1] / own[-1], False
    return float(np.interp(gain, own, other)) / gain, True
