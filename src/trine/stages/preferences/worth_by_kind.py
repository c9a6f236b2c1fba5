"""What a reward model is worth on held-out labels, scores, pairs and rankings: each kind's own figures.

Scores are in the unit of training, where the score of a label, or the difference of a pair, is a log-odds. Groups
(prompts, films) are the independent ones: errors and intervals are theirs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.resampling import MIN_GROUPS, bootstrap_intervals
from trine.algorithms.statistics import grouped_mean, grouped_share
from trine.algorithms.text_calibration import (
    auc,
    calibration_error,
    calibration_error_by_chance,
    fit_temperature,
    label_losses,
    reliability_bins,
    right_labels,
    sigmoid,
)
from trine.algorithms.text_correlation import pearson, spearman
from trine.algorithms.text_lengths import word_count
from trine.algorithms.text_reward_bench import best_of_four_from_labels, choice_credit, tie_margins, ties_score
from trine.stages.preferences.contradictions import ordered_places
from trine.stages.preferences.figures import figure, with_interval
from trine.stages.preferences.judged import Judged

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Figures = dict[str, Any]
MAX_MARGINS = 6
LENGTH_RATIOS = (0.5, 1 / 1.2, 1.2, 2.0)
LENGTH_BINS = ("less than half as long", "shorter", "about as long (within 20%)", "longer", "more than twice as long")


def groups_of(items: Sequence[Judged]) -> Places:
    """[N]: numbers of the items' groups. Without a group it is the prompt; without either, an item is its own."""
    numbers: dict[object, int] = {}
    keys = [_group(each, place) for place, each in enumerate(items)]
    return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _group(judged: Judged, place: int) -> object:
    item = judged.item
    queries = tuple(answer.query for answer in item.answers if answer.query)
    return item.group or item.prompt or queries[:1] or place


def label_figures(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """Labels: accuracy, AUC, Brier, calibration, and the best of four: a good text against three bad ones."""
    log_odds = np.asarray([each.scores[0] for each in items], np.float64)
    labels = np.asarray([bool(each.item.label) for each in items], np.float64)
    groups = groups_of(items)

    def resampled(places: Places) -> list[float]:
        credit = best_of_four_from_labels(log_odds[places], labels[places])
        return [auc(log_odds[places], labels[places]), float(credit.mean()) if len(credit) else float("nan")]

    values = resampled(np.arange(len(items)))
    intervals = bootstrap_intervals(resampled, groups, generator)
    ranked, best = (with_interval(*each, len(items)) for each in zip(values, intervals, strict=True))
    return {
        "accuracy": figure(grouped_share(right_labels(log_odds, labels).tolist(), groups.tolist())),
        "good": float(labels.mean()),
        "auc": ranked,
        "best_of_4": best,
        **probability_figures(log_odds, labels, groups, generator),
    }


def probability_figures(log_odds: Floats, labels: Floats, groups: Places, generator: np.random.Generator) -> Figures:
    """Whether sigmoid(log_odds) is a probability: Brier, loss, calibration error, reliability, temperature."""
    probabilities = sigmoid(log_odds)
    return {
        "brier": figure(grouped_mean(np.square(probabilities - labels).tolist(), groups.tolist())),
        "loss": figure(grouped_mean(label_losses(log_odds, labels).tolist(), groups.tolist())),
        "calibration_error": _calibration(log_odds, labels, groups, generator),
        "calibration_error_by_chance": calibration_error_by_chance(probabilities, generator),
        "reliability": [[each.probability, each.share, each.count] for each in reliability_bins(probabilities, labels)],
        "temperature": temperature_figures(log_odds, labels, groups, generator),
    }


def _calibration(log_odds: Floats, labels: Floats, groups: Places, generator: np.random.Generator) -> Figures:
    probabilities = sigmoid(log_odds)
    (interval,) = bootstrap_intervals(
        lambda places: [calibration_error(probabilities[places], labels[places])], groups, generator, reflected=[True]
    )
    return with_interval(calibration_error(probabilities, labels), interval, len(labels))


def temperature_figures(
    log_odds: Floats, labels: Floats, groups: Places, generator: np.random.Generator
) -> Figures | None:
    """A temperature fitted on one half of the groups, and the calibration error of the other, before and after."""
    count = int(groups.max(initial=-1)) + 1
    if count < 2 * MIN_GROUPS:
        return None
    first = (generator.permutation(count) < count // 2)[groups]
    temperature = fit_temperature(log_odds[first], labels[first])
    _, other = np.unique(groups[~first], return_inverse=True)
    before, after = (
        _calibration(log_odds[~first] / each, labels[~first], other, generator) for each in (1.0, temperature)
    )
    return {"value": temperature, "fitted_on": int(first.sum()), "before": before, "after": after}


def score_figures(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """Scores: both correlations with what people gave."""
    ours = np.asarray([each.scores[0] for each in items], np.float64)
    theirs = np.asarray([each.item.score for each in items], np.float64)
    names: dict[str, Callable[[Floats, Floats], float]] = {"pearson": pearson, "spearman": spearman}

    def resampled(places: Places) -> list[float]:
        return [correlation(ours[places], theirs[places]) for correlation in names.values()]

    intervals = bootstrap_intervals(resampled, groups_of(items), generator)
    values = resampled(np.arange(len(items)))
    return {
        name: with_interval(value, interval, len(items))
        for name, value, interval in zip(names, values, intervals, strict=True)
    }


def pair_figures(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """Pairs: accuracy on those that are no ties, by margin and by length; calibration of all, ties as one half."""
    groups = groups_of(items)
    strict = [(ordered_places(each.item), place) for place, each in enumerate(items)]
    ordered = [(pairs[0], place) for pairs, place in strict if pairs]
    wins = np.asarray([_win(items[place].scores, pair) for pair, place in ordered], np.float64)
    found: Figures = {"ties": len(items) - len(ordered)}
    if ordered:
        places = [place for _, place in ordered]
        own = groups[places]
        margins = np.asarray([items[place].item.margin for place in places], np.float64)
        ratios = np.asarray([_length_ratio(items[place], pair) for pair, place in ordered], np.float64)
        found["accuracy"] = figure(grouped_share(wins.tolist(), own.tolist()))
        found["by_margin"] = _by_bins(wins, own, margin_bins(margins)) if margins.any() else []
        found["by_length"] = _by_bins(wins, own, length_bins(ratios))
    sides = [_difference(each) for each in items]
    differences, wanted = (np.asarray([side[part] for side in sides], np.float64) for part in (0, 1))
    # Which answer is named first means nothing: every pair counts both ways round.
    both = (np.concatenate((differences, -differences)), np.concatenate((wanted, 1 - wanted)), np.tile(groups, 2))
    return found | probability_figures(*both, generator)


def _win(scores: Sequence[float], pair: tuple[int, int]) -> float:
    better, worse = (scores[place] for place in pair)
    return 0.5 if better == worse else float(better > worse)


def _difference(judged: Judged) -> tuple[float, float]:
    """How much more the first answer scores, and the probability that it is better: 1/2 for a tie."""
    ranking = judged.item.ranking or ()
    first, second = (place for group in ranking for place in group)
    known = judged.item.probability
    return judged.scores[first] - judged.scores[second], (0.5 if len(ranking) == 1 else 1.0) if known is None else known


def _length_ratio(judged: Judged, pair: tuple[int, int]) -> float:
    """How many times as long as the worse answer the better one is, in words."""
    better, worse = (max(1, word_count(judged.item.answers[place].response)) for place in pair)
    return better / worse


def length_bins(ratios: Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """(name, which pairs) by how long the better answer is, measured by the worse one."""
    which = np.digitize(ratios, LENGTH_RATIOS)
    return [(name, which == number) for number, name in enumerate(LENGTH_BINS)]


def margin_bins(margins: Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """(name, which pairs) by margin: each value where there are few, else quarters."""
    values = np.unique(margins)
    if len(values) <= MAX_MARGINS:
        return [(f"margin {value:g}", margins == value) for value in values]
    edges = np.quantile(margins, (0.25, 0.5, 0.75))
    which = np.digitize(margins, edges)
    limits = [float(margins.min()), *edges.tolist(), float(margins.max())]
    return [(f"margin {limits[n]:.3g} to {limits[n + 1]:.3g}", which == n) for n in range(4)]


def _by_bins(wins: Floats, groups: Places, bins: Sequence[tuple[str, NDArray[np.bool_]]]) -> list[Figures]:
    return [
        {"bin": name} | figure(grouped_share(wins[inside].tolist(), groups[inside].tolist()))
        for name, inside in bins
        if inside.any()
    ]


def ranking_figures(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """Rankings: pairs in order, the best of k as RewardBench 2 counts it, and its score of ties at the top."""
    groups = groups_of(items)
    ordered = [(place, ordered_places(each.item)) for place, each in enumerate(items)]
    shares = [
        (np.mean([_win(items[place].scores, pair) for pair in pairs]), place) for place, pairs in ordered if pairs
    ]
    found: Figures = {}
    if shares:
        own = [int(groups[place]) for _, place in shares]
        found["accuracy"] = figure(grouped_mean([float(share) for share, _ in shares], own))
        found["best_of"] = _best_of(items, groups)
    ties = _ties(items, groups, generator)
    return found | ({"ties_score": ties} if ties else {})


def _ranked(judged: Judged) -> tuple[list[float], list[int]]:
    """The scores of the answers that were ranked, best group first, and which of them are the best."""
    ranking = judged.item.ranking or ()
    return [judged.scores[place] for group in ranking for place in group], list(range(len(ranking[0])))


def _best_of(items: Sequence[Judged], groups: Places) -> Figures:
    """By the number of answers: how often the highest score is that of a best answer."""
    credits: dict[int, list[tuple[float, int]]] = {}
    for each, group in zip(items, groups.tolist(), strict=True):
        if len(each.item.ranking or ()) > 1:
            scores, good = _ranked(each)
            credits.setdefault(len(scores), []).append((choice_credit(scores, good), group))
    return {
        str(k): figure(grouped_share([credit for credit, _ in rows], [group for _, group in rows]))
        for k, rows in sorted(credits.items())
    }


def _ties(items: Sequence[Judged], groups: Places, generator: np.random.Generator) -> Figures | None:
    """The ties score of the prompts with several best answers, and others."""
    places = [
        n
        for n, each in enumerate(items)
        if len(each.item.ranking or ()) > 1 and len((each.item.ranking or ((),))[0]) > 1
    ]
    if not places:
        return None
    margins = [tie_margins(*_ranked(items[place])) for place in places]
    _, own = np.unique(groups[places], return_inverse=True)
    (interval,) = bootstrap_intervals(lambda chosen: [ties_score([margins[n] for n in chosen])], own, generator)
    return with_interval(ties_score(margins), interval, len(places))
