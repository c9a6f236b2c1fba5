"""Judgements that contradict each other: the same text said to be good and bad, the same pair in both orders.

They bound what any reward model can agree with. If every label is flipped with probability e, independently, two
judgements of one thing disagree with probability 2 e (1 - e), so disagreement among duplicates tells e.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations
from statistics import pstdev
from typing import Any

from trine.algorithms.statistics import wilson_interval
from trine.records import Answer, Judgement
from trine.stages.preferences.figures import with_interval


def contradictions(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """For labels, scores and orders (of pairs and rankings): what was said more than once, and how often both ways.

    `repeated`: texts, or pairs of answers to one prompt, with two judgements or more; `contradictory`: of these those
    whose judgements differ (scores: by more than one deviation of all scores); `flipped`: the share of flipped labels
    that would explain it. `identical`: pairs of which both sides are the same text. What was not said is absent.
    """
    said: dict[str, dict[Hashable, list[float]]] = {name: defaultdict(list) for name in ("labels", "scores", "orders")}
    identical = 0
    for judgement in judgements:
        if judgement.ranking is not None:
            for key, value in _orders(judgement):
                said["orders"][key].append(value)
            identical += sum(a == b for _, a, b in _strict_pairs(judgement))
        elif judgement.label is not None:
            said["labels"][_text(judgement, 0)].append(float(judgement.label))
        elif judgement.score is not None:
            said["scores"][_text(judgement, 0)].append(judgement.score)
    scores = [value for values in said["scores"].values() for value in values]
    limits = {"labels": 0.0, "scores": pstdev(scores) if scores else 0.0, "orders": 0.0}
    found = {name: _counted(values.values(), limits[name]) for name, values in said.items() if values}
    if said["orders"]:
        found["orders"]["identical"] = identical
    if "scores" in found:
        del found["scores"]["flipped"]  # a score has no two sides
    return found


def _counted(said: Iterable[list[float]], limit: float) -> dict[str, Any]:
    repeated = [values for values in said if len(values) > 1]
    differ = sum(max(values) - min(values) > limit for values in repeated)
    share = (
        with_interval(differ / len(repeated), wilson_interval(differ, len(repeated)), len(repeated))
        if repeated
        else None
    )
    return {"repeated": len(repeated), "contradictory": differ, "share": share, "flipped": flipped_share(repeated)}


def flipped_share(said: Sequence[Sequence[float]]) -> float | None:
    """The share of flipped labels that makes judgements of one thing disagree as often as these; None without any.

    >>> round(flipped_share([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), 6)
    0.146447

    At most 1/2, where labels say nothing.
    """
    if not said:
        return None
    disagreement = sum(_disagreement(values) for values in said) / len(said)
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def _disagreement(values: Sequence[float]) -> float:
    """Of the pairs of judgements of one thing, the share that differ; a tie differs from either side by half."""
    pairs = list(combinations(values, 2))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def _text(judgement: Judgement, place: int) -> Hashable:
    answer = judgement.answers[place]
    return judgement.prompt, answer.query, answer.response.strip()


def _strict_pairs(judgement: Judgement) -> Iterator[tuple[Hashable, str, str]]:
    """(prompt, better, worse) of answers that a ranking puts in an order."""
    for better, worse in ordered_pairs(judgement):
        yield judgement.prompt, better.response.strip(), worse.response.strip()


def _orders(judgement: Judgement) -> Iterator[tuple[Hashable, float]]:
    """Two different answers to a prompt, and whether the first by name is the better one."""
    for prompt, better, worse in _strict_pairs(judgement):
        if better != worse:
            yield (prompt, *sorted((better, worse))), float(better < worse)


def ordered_pairs(judgement: Judgement) -> Iterator[tuple[Answer, Answer]]:
    """(better, worse) of the answers that a ranking puts in an order; ties are in none."""
    for better, worse in ordered_places(judgement):
        yield judgement.answers[better], judgement.answers[worse]


def ordered_places(judgement: Judgement) -> list[tuple[int, int]]:
    """Places (better, worse). A soft label of less than one half turns its pair round, one half is a tie."""
    ranking = judgement.ranking or ()
    pairs = [(a, b) for high, low in combinations(ranking, 2) for a in high for b in low]
    if judgement.probability is None or len(pairs) != 1:
        return pairs
    (first, second), sure = pairs[0], judgement.probability
    return [] if sure == 0.5 else [(first, second)] if sure > 0.5 else [(second, first)]
