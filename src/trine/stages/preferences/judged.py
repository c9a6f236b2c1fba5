"""What a reward model's worth is measured by: held-out judgements beside the scores of their answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trine.algorithms.text_correlation import spearman
from trine.algorithms.text_judgements import ranked_pairs
from trine.records import Judgement, JudgementKind


@dataclass(frozen=True)
class Judged:
    """A judgement, and what a reward model gives its answers.

    `scores`: one for each of `item.answers`, in their order, in the unit that the model was trained in (before it is
    normalized on the policy's samples). `ids`: each answer as it was read, end token included, without the prompt.
    """

    item: Judgement
    kind: JudgementKind
    scores: tuple[float, ...]
    ids: tuple[tuple[int, ...], ...] = ()


def told_pairs(judged: Judged) -> list[tuple[float, float]]:
    """(score of the better, of the worse) of every pair that is no tie; of a soft label, the likelier one is better."""
    if judged.item.ranking is None or judged.item.probability == 0.5:
        return []
    scores, turned = judged.scores, (judged.item.probability or 1.0) < 0.5 and judged.item.probability is not None
    pairs = [(scores[a], scores[b]) for a, b, likely in ranked_pairs(judged.item.ranking) if likely == 1.0]
    return [(worse, better) for better, worse in pairs] if turned else pairs


def right_share(judged: Judged) -> float:
    """Share of its pairs that the scores order as it does, equal scores counting half; of a label 1 or 0."""
    if judged.item.label is not None:
        return float((judged.scores[0] > 0) == judged.item.label)
    pairs = told_pairs(judged)
    return sum(1.0 if better > worse else 0.5 * (better == worse) for better, worse in pairs) / len(pairs)


def held_out_figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Accuracy of labels, pairs and rankings (the mean over rankings of their pairs' shares), Spearman of scores."""
    names = {"label": "held_out_label_accuracy", "pair": "held_out_accuracy", "ranking": "held_out_ranking_accuracy"}
    figures: dict[str, float] = {}
    for kind, name in names.items():
        of_kind = [each for each in judged if each.kind == kind and (kind == "label" or told_pairs(each))]
        if of_kind:
            figures[name] = sum(map(right_share, of_kind)) / len(of_kind)
    scored = [(each.scores[0], each.item.score) for each in judged if each.item.score is not None]
    if len(scored) > 1:
        given, said = (np.array(column, np.float64) for column in zip(*scored, strict=True))
        figures["held_out_score_spearman"] = spearman(given, said)
    return figures
