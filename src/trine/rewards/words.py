"""Which words a text has: logistic regression on n-grams weighted by naive Bayes (Wang & Manning 2012, "Baselines and
bigrams: simple, good sentiment and topic classification", NBSVM with a logistic loss).

It takes seconds on one core and is hard to beat: the baseline that a model's accuracy is printed beside. A text is the
set of its words and of its runs of up to `order` words; each has the weight of its log-count ratio between the classes,
and a regularised logistic regression on those learns what is left. Of more than two labels each is learned against all
others.

Shapes: N texts, F features, C labels; a text's features are `features[starts[i] : starts[i + 1]]`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:'\w+)?|[\u3040-\u30ff\u3400-\u9fff]|[^\w\s]")
SMOOTHING = 1.0
MEMORY = 10  # of L-BFGS: pairs of steps
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ragged:
    """The features that each text has, as numbers, one after the other."""

    features: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """The text of each entry of `features`."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


class WordModel:
    """Log-odds of the labels of texts::

        words = WordModel.fit(["good film", "fine film", "bad film", "dull film"], [1, 1, 0, 0], min_count=1)
        scores = words.log_odds(["a good one", "a bad one"])[:, 1]  # positive, negative

    `vocabulary` numbers the n-grams; `weights` [F, C] and `bias` [C] give the log-odds of each label.
    """

    def __init__(self, vocabulary: dict[str, int], weights: Floats, bias: Floats, order: int) -> None:
        self.vocabulary, self.weights, self.bias, self.order = vocabulary, weights, bias, order

    @staticmethod
    def fit(
        texts: Sequence[str], labels: Sequence[int], *, order: int = 2, min_count: int = 2, penalty: float = 1.0
    ) -> "WordModel":
        """Learn from texts with labels 0 ... C - 1, of n-grams up to `order` words that `min_count` texts have.

        `penalty` is what the squared weights of the ratio features cost. Raises ValueError unless there are two labels.
        """
        answers = np.asarray(labels)
        count = int(answers.max(initial=0)) + 1
        if count < 2:
            raise ValueError("a classifier has two labels or more")
        vocabulary = vocabulary_of(texts, order, min_count)
        ragged = features_of(texts, vocabulary, order)
        one_against_rest = [
            _fit_one(ragged, (answers == label).astype(float), len(vocabulary), penalty)
            for label in range(1 if count == 2 else 0, count)
        ]
        weights, bias = (np.stack([each[part] for each in one_against_rest], -1) for part in (0, 1))
        if count == 2:
            weights, bias = np.concatenate((-weights, weights), 1), np.concatenate((-bias, bias))
        return WordModel(vocabulary, weights, bias, order)

    def log_odds(self, texts: Sequence[str]) -> Floats:
        """[N, C]: how much more likely each label is than the others."""
        ragged = features_of(texts, self.vocabulary, self.order)
        return np.stack(
            [sums_of(ragged, weight) + bias for weight, bias in zip(self.weights.T, self.bias, strict=True)], -1
        )

    def labels(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The most likely label of each text."""
        return self.log_odds(texts).argmax(-1)


def n_grams(text: str, order: int) -> Iterator[str]:
    """The words of `text`, in small letters, and its runs of up to `order` words; a Chinese character is a word.

    >>> list(n_grams("Not bad.", 2))
    ['not', 'bad', '.', 'not bad', 'bad .']
    """
    words = _WORD.findall(text.lower())
    for length in range(1, order + 1):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def vocabulary_of(texts: Iterable[str], order: int, min_count: int) -> dict[str, int]:
    """The n-grams that `min_count` of the texts have, numbered."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(n_grams(text, order)))
    return {name: place for place, name in enumerate(name for name, count in counts.items() if count >= min_count)}


def features_of(texts: Sequence[str], vocabulary: dict[str, int], order: int) -> Ragged:
    """The n-grams of `vocabulary` that each text has."""
    rows = [sorted({vocabulary[name] for name in n_grams(text, order) if name in vocabulary}) for text in texts]
    starts = np.cumsum([0, *map(len, rows)])
    return Ragged(np.fromiter((each for row in rows for each in row), np.int64, int(starts[-1])), starts)


def sums_of(ragged: Ragged, weight: Floats) -> Floats:
    """[N]: the sum of the weights of each text's features."""
    return np.bincount(ragged.owners, weight[ragged.features], len(ragged)).astype(np.float64, copy=False)


def _fit_one(ragged: Ragged, positive: Floats, features: int, penalty: float) -> tuple[Floats, np.float64]:
    """Weights [F] and bias of the log-odds of `positive` [N]."""

    def logistic(outputs: Floats) -> tuple[float, Floats]:
        return logistic_loss(outputs, positive)

    return fit_weights(ragged, positive, logistic, features, penalty)


def logistic_loss(outputs: Floats, positive: Floats) -> tuple[float, Floats]:
    """The sum of -log sigma(+-output), and its slope in every output, [N]."""
    signs = 2 * positive - 1
    margins = signs * outputs
    return float(np.logaddexp(0, -margins).sum()), -signs * np.exp(-np.logaddexp(0, margins))


def fit_weights(
    ragged: Ragged,
    positive: Floats,
    loss: Callable[[Floats], tuple[float, Floats]],
    features: int,
    penalty: float,
) -> tuple[Floats, np.float64]:
    """Weights [F] and bias of the sum of a text's features that is least in `loss`, a convex function of all sums [N].

    `positive` [N], between 0 and 1, is how good each text is: a feature is weighted by its log-count ratio between good
    and bad, and the squared weights of the weighted features cost `penalty`.
    """
    ratio = _log_count_ratio(ragged, positive, features)
    owners = ragged.owners

    def objective(parameters: Floats) -> tuple[float, Floats]:
        weight, bias = parameters[:-1], parameters[-1]
        value, slopes = loss(np.bincount(owners, (ratio * weight)[ragged.features], len(ragged)) + bias)
        gradient = ratio * np.bincount(ragged.features, slopes[owners], features) + penalty * weight
        return value + float(0.5 * penalty * weight @ weight), np.append(gradient, slopes.sum())

    found = minimize(objective, np.zeros(features + 1))
    return ratio * found[:-1], found[-1]


def _log_count_ratio(ragged: Ragged, positive: Floats, features: int) -> Floats:
    """log of how often the positive texts have a feature over how often the others do, smoothed (eq. 2)."""
    mine = SMOOTHING + np.bincount(ragged.features, positive[ragged.owners], features)
    others = SMOOTHING + np.bincount(ragged.features, 1 - positive[ragged.owners], features)
    return np.log(mine / mine.sum()) - np.log(others / others.sum())


def minimize(
    function: Callable[[Floats], tuple[float, Floats]], start: Floats, *, steps: int = 200, tolerance: float = 1e-4
) -> Floats:
    """The minimum of a smooth convex function, which returns value and gradient, by L-BFGS (Nocedal 1980).

    >>> minimize(lambda x: (float((x - 3) @ (x - 3)), 2 * (x - 3)), np.zeros(2)).round(3).tolist()
    [3.0, 3.0]

    Ends when the gradient's norm has fallen to `tolerance` of the first, or after `steps` steps.
    """
    place, (value, gradient) = start, function(start)
    enough = tolerance * max(float(np.linalg.norm(gradient)), 1e-12)
    memory: list[tuple[Floats, Floats]] = []
    for _ in range(steps):
        if np.linalg.norm(gradient) <= enough:
            break
        direction = _direction(gradient, memory)
        slope, length = float(gradient @ direction), 1.0 if memory else 1.0 / max(float(np.linalg.norm(gradient)), 1.0)
        while True:  # until the value has fallen as the slope says (Armijo)
            found = place + length * direction
            new_value, new_gradient = function(found)
            if new_value <= value + 1e-4 * length * slope or length < 1e-10:
                break
            length /= 2
        step, change = found - place, new_gradient - gradient
        if step @ change > 0:
            memory = [*memory[1 - MEMORY :], (step, change)]
        place, value, gradient = found, new_value, new_gradient
    return place


def _direction(gradient: Floats, memory: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Minus the approximate inverse Hessian times `gradient`, by the two-loop recursion."""
    direction, shares = -gradient, []
    for step, change in reversed(memory):
        share = float(step @ direction) / float(step @ change)
        direction = direction - share * change
        shares.append(share)
    if memory:
        step, change = memory[-1]
        direction = direction * (float(step @ change) / float(change @ change))
    for (step, change), share in zip(memory, reversed(shares), strict=True):
        direction = direction + (share - float(change @ direction) / float(step @ change)) * step
    return direction
