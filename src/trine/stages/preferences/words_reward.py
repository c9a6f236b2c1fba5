"""kind: words: a reward model that counts words (`rewards/word_scores.py`), of judgements of every kind, in seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from trine.config.backbones import WordsConfig
from trine.records import Judgement
from trine.rewards.word_reward import words_read
from trine.rewards.word_scores import WordScorer, WordTargets
from trine.rewards.words import Floats

TIE = 0.5


@dataclass(frozen=True)
class Standard:
    """What is subtracted from scores, and what they are then divided by."""

    mean: float = 0.0
    deviation: float = 1.0


def standard_of(judgements: Sequence[Judgement]) -> Standard:
    """Mean and deviation of the scores among `judgements`."""
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    return Standard(float(np.mean(scores)), float(np.std(scores)) or 1.0) if scores else Standard()


@dataclass
class _Collected:
    """The columns of a `WordTargets` on their way."""

    labelled: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    label_weights: list[float] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    score_weights: list[float] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    pair_weights: list[float] = field(default_factory=list)

    def add(self, judgement: Judgement, places: Sequence[int], standard: Standard, weight: float) -> None:
        if judgement.label is not None:
            self.labelled.append(places[0])
            self.labels.append(float(judgement.label))
            self.label_weights.append(weight)
        elif judgement.score is not None:
            self.scored.append(places[0])
            self.scores.append((judgement.score - standard.mean) / standard.deviation)
            self.score_weights.append(weight)
        for first, second, probability, share in pairs_of(judgement):
            self.first.append(places[first])
            self.second.append(places[second])
            self.probabilities.append(probability)
            self.margins.append(judgement.margin)
            self.pair_weights.append(weight * share)

    def targets(self) -> WordTargets:
        def places(of: list[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
            return np.array(of, np.int64)

        def numbers(of: list[float]) -> Floats:
            return np.array(of, np.float64)

        return WordTargets(
            places(self.labelled), numbers(self.labels), numbers(self.label_weights),
            places(self.scored), numbers(self.scores), numbers(self.score_weights),
            places(self.first), places(self.second), numbers(self.probabilities), numbers(self.margins),
            numbers(self.pair_weights),
        )  # fmt: skip


def pairs_of(judgement: Judgement) -> Iterator[tuple[int, int, float, float]]:
    """(better, worse, probability, weight) of every two ranked answers; the weights of one ranking add up to 1.

    A tie has probability 1/2 either way; a pair its own, where it says one.
    """
    ranks = [(rank, place) for rank, group in enumerate(judgement.ranking or ()) for place in group]
    share = 1 / comb(len(ranks), 2) if len(ranks) > 1 else 0.0
    for (better, first), (worse, second) in combinations(ranks, 2):
        sure = 1.0 if judgement.probability is None else judgement.probability
        yield first, second, TIE if better == worse else sure, share


def learn_words(
    judgements: Sequence[Judgement], settings: WordsConfig, weights: dict[str, float] | None = None
) -> WordScorer:
    """The reward model by words of all `judgements`.

    `weights`: how much each kind counts (label, score, pair, ranking), 1 where nothing is said.
    """
    standard = standard_of(judgements)
    texts: list[str] = []
    collected = _Collected()
    for judgement in judgements:
        places = range(len(texts), len(texts) + len(judgement.answers))
        texts += [words_read(answer) for answer in judgement.answers]
        collected.add(judgement, places, standard, judgement.weight * (weights or {}).get(judgement.kind, 1.0))
    return WordScorer.fit(
        texts, collected.targets(), order=settings.order, min_count=settings.min_count, penalty=settings.penalty
    )
