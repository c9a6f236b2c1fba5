"""Best of n: what the highest-scoring of n samples is worth, and how far it is from a sample, in nats.

The mean over all sets of n of N samples is known exactly, without resampling: of N sorted values the i-th (from 0) is
the largest of C(i, n - 1) sets of C(N, n) (Nakano et al. 2021, "WebGPT", section 3.2; Gao et al. 2022, appendix A).
That set's choice can be scored by another reward too, which is how over-optimisation is seen before any training.
The policy "best of n" is log n - (n - 1) / n nats from the one sampled from, or less where answers repeat (Beirami et
al. 2024). Shapes: P prompts, N samples of each.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def best_of_n_nats(n: int) -> float:
    """KL of best of n from the policy, where no two answers are alike: log n - (n - 1) / n; an upper bound otherwise.

    >>> round(best_of_n_nats(4), 6)
    0.636294
    """
    return math.log(n) - (n - 1) / n


def exact_best_of_n_nats(shares: Sequence[float], scores: Sequence[float], n: int) -> float:
    """KL of best of n where there are few different answers, of these probabilities and scores.

    >>> round(exact_best_of_n_nats([0.5, 0.5], [0.0, 1.0], 2), 6)  # the bound is 0.193147
    0.130812

    The best of n has a score of at most s with probability F(s)^n. Of several best ones a random one is taken, so that
    answers of one score keep the proportions they have.
    """
    share, score = np.asarray(shares, float), np.asarray(scores, float)
    _, places = np.unique(score, return_inverse=True)
    at = np.bincount(places, share / share.sum())  # the probability of each score
    up_to = np.minimum(np.cumsum(at), 1.0)
    best = up_to**n - np.concatenate(([0.0], up_to[:-1])) ** n
    some = best > 0
    return float((best[some] * np.log(best[some] / at[some])).sum())


def best_of_n_weights(samples: int, n: int) -> Floats:
    """[N]: the share of sets of n samples of which the i-th smallest is the best, C(i, n - 1) / C(N, n).

    >>> best_of_n_weights(4, 2).round(3).tolist()
    [0.0, 0.167, 0.333, 0.5]

    Raises ValueError unless 1 <= n <= samples.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"best of {n} needs at least as many samples, there are {samples}")
    weights = np.zeros(samples)
    weights[-1] = n / samples
    for place in range(samples - 2, n - 2, -1):
        weights[place] = weights[place + 1] * (place + 2 - n) / (place + 1)
    return weights


def best_of_n_means(scores: Floats, others: Floats, n: int) -> tuple[Floats, Floats]:
    """[P] each: the mean score of the best of n by `scores` [P, N], and the mean of `others` [P, N] of the same choice.

    >>> best_of_n_means(np.array([[0.0, 1, 2, 3]]), np.array([[0.0, 0, 0, 3]]), 2)[0].round(6).tolist()
    [2.333333]

    Unbiased. Among equal scores the choice is at random, so that their `others` count alike.
    """
    weights = best_of_n_weights(scores.shape[1], n)
    order = np.argsort(scores, 1, kind="stable")
    chosen, theirs = (np.take_along_axis(values, order, 1) for values in (scores, others))
    return chosen @ weights, np.stack([_ties_shared(*rows) for rows in zip(chosen, theirs, strict=True)]) @ weights


def _ties_shared(scores: Floats, others: Floats) -> Floats:
    """`others` [N], each in place of it the mean of those whose scores are equal."""
    _, places = np.unique(scores, return_inverse=True)
    means = np.bincount(places, others) / np.bincount(places)
    shared: Floats = means[places]
    return shared


def conditioning_nats(share: float) -> float:
    """What it costs to write only answers of a kind that are `share` of a policy's own: -log share nats.

    >>> round(conditioning_nats(0.25), 4)
    1.3863
    """
    return -math.log(share)


def tilting_nats(gain: float) -> float:
    """What a gain of so many standard deviations costs where scores are normally distributed: gain^2 / 2 nats.

    >>> tilting_nats(3.0)
    4.5

    No policy has that mean score at a smaller KL (an exponential tilt, the optimum of reward minus KL).
    """
    return gain * gain / 2
