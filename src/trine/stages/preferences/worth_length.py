"""Whether a reward model scores length: a warning where length explains the score, or all that the score gets right.

- `explained`: the share of the variance of the scores (their ranks) that length explains (a parabola in its logarithm,
  so that "of middle length is best" is seen too). Answers to one prompt are taken against each other.
- `accuracy`, `balanced`: of two answers, how often the better one scores higher; and the same where length cannot help.
  A pair whose better answer is longer is matched with one whose better answer is shorter by as much; of labels and
  scores, texts are matched that are as long as each other. A model that sees nothing but length has one half there.

The rule: it is a warning where the interval of `explained` lies above `MOST`; or where the accuracy is shown, the
balanced one is not shown to be more than chance, their intervals do not touch, and length explains something.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.resampling import MIN_GROUPS, bootstrap_intervals
from trine.algorithms.statistics import Estimate, grouped_mean, grouped_share
from trine.algorithms.text_correlation import average_ranks, centred_within, explained_share, spearman
from trine.algorithms.text_lengths import word_count
from trine.stages.preferences.contradictions import ordered_places
from trine.stages.preferences.figures import figure, with_interval
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.worth_by_kind import groups_of

Floats = NDArray[np.float64]
Figures = dict[str, Any]
MOST = 0.5
SOMETHING = 0.1
NEAR = 1.1
"""Texts are matched whose lengths differ by at most this factor."""


def length_figures(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """Of one kind of judgements: correlation with length, accuracy with and without its help, and the warning."""
    correlation, explained = correlations(items, generator)
    several = any(len(each.item.answers) > 1 for each in items)
    found = _of_pairs(items) if several else _of_texts(items, generator)
    return {"correlation": correlation, "explained": explained, **found, "warning": warning(explained, found)}


def warning(explained: Figures, found: Figures) -> str | None:
    """ "explained", "only_length" or None; see the module."""
    low = explained["interval"][0] if explained["interval"] else 0.0
    if low > MOST:
        return "explained"
    plain, balanced = found["accuracy"], found["balanced"]
    if not plain or not balanced or not plain["interval"] or not balanced["interval"] or low <= SOMETHING:
        return None
    shown = plain["interval"][0] > 0.5 >= balanced["interval"][0]
    return "only_length" if shown and balanced["interval"][1] < plain["interval"][0] else None


def correlations(items: Sequence[Judged], generator: np.random.Generator) -> tuple[Figures, Figures]:
    """Spearman's correlation of score and length in words, and the share of the scores that length explains."""
    rows = [(place, score, text) for place, each in enumerate(items) for score, text in _answers(each)]
    owners = np.asarray([place for place, _, _ in rows], np.int64)
    columns = np.asarray([(score, np.log1p(word_count(text))) for _, score, text in rows], np.float64).T
    scores, length, square = columns[0], columns[1], np.square(columns[1] - columns[1].mean())
    if len(rows) > len(items):  # answers to one prompt are taken against each other
        scores, length, square = (centred_within(each, owners) for each in (scores, length, square))
    ranks, parabola = average_ranks(scores), np.stack((length, square), 1)

    def resampled(places: NDArray[np.int64]) -> list[float]:
        return [spearman(ranks[places], length[places]), explained_share(ranks[places], parabola[places])]

    values = resampled(np.arange(len(rows)))
    intervals = bootstrap_intervals(resampled, groups_of(items)[owners], generator)
    correlation, explained = (with_interval(*each, len(rows)) for each in zip(values, intervals, strict=True))
    return correlation, explained


def _answers(judged: Judged) -> list[tuple[float, str]]:
    return [(score, answer.response) for score, answer in zip(judged.scores, judged.item.answers, strict=True)]


def _of_pairs(items: Sequence[Judged]) -> Figures:
    """Accuracies over all pairs in an order: whichever is longer, the better one longer, and shorter; and balanced."""
    rows = [
        (_right(each.scores[better], each.scores[worse]), _length_ratio(each, better, worse), group)
        for each, group in zip(items, groups_of(items).tolist(), strict=True)
        for better, worse in ordered_places(each.item)
    ]
    sides = {
        "accuracy": rows,
        "longer": [row for row in rows if row[1] > 1],
        "shorter": [row for row in rows if row[1] < 1],
    }
    shares = {name: _share([(right, group) for right, _, group in part]) for name, part in sides.items()}
    return {name: figure(share) if share else None for name, share in shares.items()} | {"balanced": _balanced(rows)}


def _length_ratio(judged: Judged, better: int, worse: int) -> float:
    """How many times as long as the worse answer the better one is."""
    longer, other = (max(1, word_count(judged.item.answers[place].response)) for place in (better, worse))
    return longer / other


def _balanced(rows: Sequence[tuple[float, float, int]]) -> Figures | None:
    """The accuracy over matched pairs of pairs: one's better answer is longer, the other's shorter by as much."""
    unequal = [row for row in rows if row[1] != 1]
    matched = matched_pairs([max(r, 1 / r) for _, r, _ in unequal], [float(r > 1) for _, r, _ in unequal])
    if len(matched) < MIN_GROUPS:
        return None
    means = [(unequal[a][0] + unequal[b][0]) / 2 for a, b in matched]
    found = figure(grouped_mean(means, [unequal[a][2] for a, _ in matched]))
    return found | {"items": 2 * len(matched)}


def _right(better: float, worse: float) -> float:
    return 0.5 if better == worse else float(better > worse)


def _share(rows: Sequence[tuple[float, int]]) -> Estimate | None:
    return (
        grouped_share([right for right, _ in rows], [group for _, group in rows]) if len(rows) >= MIN_GROUPS else None
    )


def _of_texts(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """Of labels and scores: pairs of texts at random, and pairs of those that are nearest in length."""
    values = [float(each.item.label if each.item.label is not None else each.item.score or 0.0) for each in items]
    scores = [each.scores[0] for each in items]
    lengths = [word_count(each.item.answers[0].response) for each in items]
    order = generator.permutation(len(items)).tolist()
    at_random = list(zip(order[::2], order[1::2], strict=False))
    return {
        "accuracy": _of_two(at_random, values, scores),
        "balanced": _of_two(matched_pairs(lengths, values), values, scores),
    }


def _of_two(pairs: Sequence[tuple[int, int]], values: Sequence[float], scores: Sequence[float]) -> Figures | None:
    """How often the one with the higher value scores higher; no text is in two pairs."""
    ordered = [(a, b) if values[a] > values[b] else (b, a) for a, b in pairs if values[a] != values[b]]
    right = _share([(_right(scores[better], scores[worse]), place) for place, (better, worse) in enumerate(ordered)])
    return figure(right) if right else None


def matched_pairs(lengths: Sequence[float], values: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of places with different values and lengths as near as can be, within a factor `NEAR`; each place once.

    >>> matched_pairs([100, 5, 102, 50], [1.0, 0.0, 0.0, 1.0])
    [(0, 2)]
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    pairs, waiting = [], list[int]()
    for place in order:
        while waiting and lengths[place] > NEAR * max(lengths[waiting[0]], 1):
            waiting.pop(0)
        other = next((w for w in reversed(waiting) if values[w] != values[place]), None)
        if other is None:
            waiting.append(place)
        else:
            waiting.remove(other)
            pairs.append((other, place))
    return pairs
