"""A reward from words: one weight for each n-gram, learned from labels, scores and pairs together.

The score of a text is the sum of the weights of the words and runs of words that it has (`words.py`), and one bias. It
is fitted to all that is known at once, as a sum of losses of the scores s (Wang & Manning 2012 for the features):

    label    -log sigma(s) of a good text, -log sigma(-s) of a bad one, so that s is the log-odds
    score    (s - z)^2, z the standardised score: ridge regression
    pair     -p log sigma(d - margin) - (1 - p) log sigma(-d + margin), d = s of the first - s of the second

Weights and sums are fp64, so the score of a text is the same to the bit in any company, after saving too.
Shapes: N texts, F features, P pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trine.rewards.words import Floats, features_of, fit_weights, logistic_loss, n_grams, sums_of, vocabulary_of
from trine.runtime.errors import TrineError
from trine.runtime.files import disk_errors, read_json, write_json
from trine.runtime.json_object import read_json_object

MODEL_TYPE = "trine-words"
WEIGHTS = "model.safetensors"
VOCABULARY = "vocabulary.json"
Places = NDArray[np.int64]


def _none() -> Floats:
    return np.zeros(0)


def _nowhere() -> Places:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class WordTargets:
    """What is known of texts, each named by its place.

    `labels`, `scores`: 0 or 1, and real numbers, of the texts at `labelled` and `scored`. `first`, `second` [P]: the
    texts of the pairs, with the probability that the first is better and the margin by which it has to be. `*_weights`:
    how much each counts.
    """

    labelled: Places = field(default_factory=_nowhere)
    labels: Floats = field(default_factory=_none)
    label_weights: Floats = field(default_factory=_none)
    scored: Places = field(default_factory=_nowhere)
    scores: Floats = field(default_factory=_none)
    score_weights: Floats = field(default_factory=_none)
    first: Places = field(default_factory=_nowhere)
    second: Places = field(default_factory=_nowhere)
    probabilities: Floats = field(default_factory=_none)
    margins: Floats = field(default_factory=_none)
    pair_weights: Floats = field(default_factory=_none)

    def goodness(self, texts: int) -> Floats:
        """[N], between 0 and 1: the mean of what is known of each text, 1/2 where nothing is."""
        total, count = np.zeros(texts), np.zeros(texts)
        above = (self.scores > self.scores.mean()).astype(float) if len(self.scores) else _none()
        for places, values in (
            (self.labelled, self.labels),
            (self.scored, above),
            (self.first, self.probabilities),
            (self.second, 1 - self.probabilities),
        ):
            np.add.at(total, places, values)
            np.add.at(count, places, 1)
        return np.divide(total, count, out=np.full(texts, 0.5), where=count > 0)

    def loss(self, outputs: Floats) -> tuple[float, Floats]:
        """The sum of all losses of the scores `outputs` [N], and its slope in each of them."""
        slopes = np.zeros(len(outputs))
        value = self._of_labels(outputs, slopes) + self._of_scores(outputs, slopes) + self._of_pairs(outputs, slopes)
        return value, slopes

    def _of_labels(self, outputs: Floats, slopes: Floats) -> float:
        given = outputs[self.labelled]
        signs = 2 * self.labels - 1
        np.add.at(slopes, self.labelled, self.label_weights * logistic_loss(given, self.labels)[1])
        return float(self.label_weights @ np.logaddexp(0, -signs * given))

    def _of_scores(self, outputs: Floats, slopes: Floats) -> float:
        off = outputs[self.scored] - self.scores
        np.add.at(slopes, self.scored, 2 * self.score_weights * off)
        return float(self.score_weights @ off**2)

    def _of_pairs(self, outputs: Floats, slopes: Floats) -> float:
        apart = outputs[self.first] - outputs[self.second] - self.margins
        slope = self.pair_weights * (np.exp(-np.logaddexp(0, -apart)) - self.probabilities)
        np.add.at(slopes, self.first, slope)
        np.add.at(slopes, self.second, -slope)
        losses = self.probabilities * np.logaddexp(0, -apart) + (1 - self.probabilities) * np.logaddexp(0, apart)
        return float(self.pair_weights @ losses)


def is_word_model(folder: Path) -> bool:
    """Whether `folder` holds what `WordScorer.save` wrote."""
    config = folder / "config.json"
    return config.exists() and read_json_object(config).get("model_type") == MODEL_TYPE


class WordScorer:
    """Scores of texts by their words::

        targets = WordTargets(np.arange(4), np.array([1.0, 1, 0, 0]), np.ones(4))
        scorer = WordScorer.fit(["good film", "fine film", "bad film", "dull film"], targets, min_count=1)
        scorer.score(["a good one"])    # [0.9]
        scorer.explain("a good one")    # [("good", 0.8)]

    `vocabulary` numbers the n-grams of up to `order` words; `weights` [F].
    """

    def __init__(self, vocabulary: dict[str, int], weights: Floats, bias: float, order: int) -> None:
        self.vocabulary, self.weights, self.bias, self.order = vocabulary, weights, bias, order

    @staticmethod
    def fit(
        texts: Sequence[str],
        targets: WordTargets,
        *,
        order: int = 2,
        min_count: int = 2,
        penalty: float = 1.0,
        counted: Sequence[int] | None = None,
    ) -> "WordScorer":
        """Learn from `targets` the weights of the n-grams that `min_count` of the texts at `counted` (all) have."""
        vocabulary = vocabulary_of(texts if counted is None else (texts[at] for at in counted), order, min_count)
        ragged = features_of(texts, vocabulary, order)
        weights, bias = fit_weights(ragged, targets.goodness(len(texts)), targets.loss, len(vocabulary), penalty)
        return WordScorer(vocabulary, weights, float(bias), order)

    def score(self, texts: Sequence[str]) -> Floats:
        """fp64 [N]."""
        return sums_of(features_of(texts, self.vocabulary, self.order), self.weights) + self.bias

    def explain(self, text: str, most: int = 10) -> list[tuple[str, float]]:
        """The n-grams of `text` with the largest weights, either way; all weights and the bias add up to its score."""
        found = {name: self.vocabulary[name] for name in n_grams(text, self.order) if name in self.vocabulary}
        weighted = [(name, float(self.weights[place])) for name, place in found.items()]
        return sorted(weighted, key=lambda each: (-abs(each[1]), each[0]))[:most]

    def heaviest(self, most: int, *, against: bool = False) -> list[str]:
        """The n-grams with the largest weights for, or against."""
        names = list(self.vocabulary)
        order = np.argsort(self.weights if against else -self.weights, kind="stable")[:most]
        return [names[place] for place in order.tolist()]

    def save(self, folder: Path, described: Mapping[str, object]) -> None:
        """Write weights, vocabulary and config.json, which holds `described` as `trine`, into an existing folder."""
        names = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        with disk_errors(folder):
            save_file({"weights": self.weights, "bias": np.array([self.bias])}, str(folder / WEIGHTS))
        write_json(folder / VOCABULARY, names)
        write_json(folder / "config.json", {"model_type": MODEL_TYPE, "order": self.order, "trine": dict(described)})

    @staticmethod
    def load(folder: Path) -> "WordScorer":
        """Read what `save` wrote. Raises `TrineError` naming the file that is damaged."""
        names, order = read_json(folder / VOCABULARY), read_json(folder / "config.json").get("order")
        try:
            arrays = load_file(str(folder / WEIGHTS))
            weights, bias = arrays["weights"], arrays["bias"]
        except (SafetensorError, OSError, KeyError) as error:
            raise TrineError(f"{folder / WEIGHTS} is damaged or missing: {error}; train it again") from error
        whole = isinstance(names, list) and all(isinstance(name, str) for name in names) and type(order) is int
        if not whole or weights.shape != (len(names),) or bias.shape != (1,):
            raise TrineError(f"{folder}: {VOCABULARY}, {WEIGHTS} and config.json are not of one model; train it again")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise TrineError(f"{folder / WEIGHTS} holds values that are NaN or infinite; train it again")
        return WordScorer({name: place for place, name in enumerate(names)}, weights, float(bias[0]), order)
