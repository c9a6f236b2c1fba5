"""Losses of a scalar reward model on what people say of texts, each a sum over judgements.

    label      -log sigmoid(s) of a good one, -log sigmoid(-s) of a bad one: the score is the log-odds
    score      (s - z)^2, z the standardised score
    pair       -p log sigmoid(d - m) - (1 - p) log sigmoid(m - d), d = chosen - rejected; p = 1, a soft label, or 1/2 of
               a tie; m a margin (Bradley & Terry 1952; Touvron et al. 2023, eq. 2)
    ranking    all pairs of its answers, which weigh 1 together (Ouyang et al. 2022, eq. 1); or Plackett-Luce: the best
               is chosen among all, the next among the rest (Plackett 1975); a tie sums over the orders it may stand for

Sides of a pair whose labels are wrong with probability e are smoothed: p = 1 - e, and the best margin is
log((1 - e) / e) in place of infinity. Shapes: N texts, P pairs.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_TIED = 8
"""Answers of one tie that Plackett-Luce sums over: the sum is over their subsets."""

Ranking = Sequence[Sequence[int]]


def smoothed(probabilities: Tensor, smoothing: float) -> Tensor:
    """The probabilities of outcomes that are recorded wrongly with probability `smoothing`.

    >>> smoothed(torch.tensor([1.0, 0.0, 0.5]), 0.1).tolist()
    [0.8999999761581421, 0.10000000149011612, 0.5]
    """
    return probabilities if not smoothing else (1 - smoothing) * probabilities + smoothing * (1 - probabilities)


def binary_losses(log_odds: Tensor, probabilities: Tensor) -> Tensor:
    """[N]: -p log sigmoid(x) - (1 - p) log sigmoid(-x), the cross-entropy of probabilities p in nats.

    >>> binary_losses(torch.tensor([0.8]), torch.tensor([0.5]))
    tensor([0.7711])
    """
    return -(probabilities * F.logsigmoid(log_odds) + (1 - probabilities) * F.logsigmoid(-log_odds))


def label_losses(scores: Tensor, good: Tensor, smoothing: float = 0.0) -> Tensor:
    """[N]: of scores that are log-odds, where `good` is 1 or 0."""
    return binary_losses(scores, smoothed(good, smoothing))


def score_losses(scores: Tensor, standardised: Tensor) -> Tensor:
    """[N]: squared error."""
    return (scores - standardised).square()


def pair_losses(
    chosen: Tensor, rejected: Tensor, probabilities: Tensor, margins: Tensor, smoothing: float = 0.0
) -> Tensor:
    """[P]: of the scores of both sides; `probabilities` that the chosen one is better, `margins` of scores.

    >>> one = torch.ones(1)
    >>> pair_losses(1.2 * one, 0.4 * one, one, 0.5 * one)
    tensor([0.5544])
    """
    return binary_losses(chosen - rejected - margins, smoothed(probabilities, smoothing))


def centring_losses(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[P]: (chosen + rejected)^2, which keeps scores near 0, where pairs alone fix only differences.

    Eisenstein et al. 2023 multiply it by 0.01.
    """
    return (chosen + rejected).square()


def ranked_pairs(ranking: Ranking) -> list[tuple[int, int, float]]:
    """(better, worse, probability) of every pair of the answers that a ranking orders; tied ones with probability 1/2.

    >>> ranked_pairs([[2], [0, 1]])
    [(2, 0, 1.0), (2, 1, 1.0), (0, 1, 0.5)]
    """
    levels = {answer: level for level, group in enumerate(ranking) for answer in group}
    return [(a, b, 1.0 if levels[a] < levels[b] else 0.5) for a, b in combinations(levels, 2)]


def plackett_luce_loss(scores: Tensor, ranking: Ranking) -> Tensor:
    """-log of the probability of a ranking of the answers with `scores` [k]; those that it does not order are left out.

    Of a tie it is the sum over its orders, t! of them, by a recursion over the subsets of the t answers: what is left
    once S of them are placed does not depend on their order. Raises `ValueError` where t is more than `MAX_TIED`.

    >>> plackett_luce_loss(torch.tensor([2.0, 1.0, 0.5, -1.0]), [[0], [1], [2], [3]])
    tensor(1.2516)
    """
    ranked = [answer for group in ranking for answer in group]
    loss, left = scores.new_zeros(()), ranked
    for group in ranking:
        if len(group) > MAX_TIED:
            raise ValueError(f"a tie of {len(group)} answers, more than {MAX_TIED}")
        after = [answer for answer in left if answer not in group]
        loss = loss - _log_probability_first(scores, group, after)
        left = after
    return loss


def _log_probability_first(scores: Tensor, group: Sequence[int], after: Sequence[int]) -> Tensor:
    """log of the probability that `group`, in any order, comes before `after`."""
    size = len(group)
    placed: list[Tensor] = [scores.new_zeros(())]  # by the subset of the group that is placed, as bits
    for subset in range(1, 1 << size):
        ways = []
        for last in range(size):
            if subset >> last & 1:
                before = subset ^ (1 << last)
                rest = [group[place] for place in range(size) if not before >> place & 1]
                among = torch.logsumexp(scores[[*rest, *after]], 0)
                ways.append(placed[before] + scores[group[last]] - among)
        placed.append(torch.logsumexp(torch.stack(ways), 0) if len(ways) > 1 else ways[0])
    return placed[-1]
