"""Statistics of evaluations: how far a figure can be trusted, and whether two figures differ.

Every figure is a mean over *items* (prompts, questions). Items are the independent ones: several samples of one prompt
say little more than one does, so they are averaged to one value per item before any error is taken (clustered by
prompt; Miller 2024, "Adding Error Bars to Evals", section 2.2). Two models on the same items are compared item by item.

- Shares (values 0 and 1): Wilson 1927, which stays inside [0, 1] and is no point at 0 of n or n of n.
- Other means: Student's t with n - 1 degrees of freedom; with weights, those of a ratio (Cochran 1977, eq. 6.9).
- Two models, shares: Newcombe's paired interval (1998), which holds 0 wherever McNemar's exact test does not reject.
- pass@k: Chen et al. 2021, eq. 1.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, both of it."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Estimate:
    """A mean over `items`, its standard error and its interval; both are None where one item says nothing of them."""

    mean: float
    error: float | None
    interval: Interval | None
    items: int


@dataclass(frozen=True)
class Difference:
    """Second minus first, over the same `items`. `p_value`: exact McNemar, where both are shares."""

    mean: float
    error: float | None
    interval: Interval | None
    items: int
    p_value: float | None = None

    @property
    def tied(self) -> bool:
        """Whether no difference is shown: the interval holds 0, or there is none."""
        return self.interval is None or self.interval.holds(0.0)


def wilson_interval(successes: float, trials: float, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share, `successes` of `trials` (Wilson 1927, "Probable inference, the law of succession").

    wilson_interval(7, 10)  # Interval(low=0.3968, high=0.8922)

    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no share")
    z, share = _normal_quantile(confidence), successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    # At the ends the formula gives them exactly; rounding need not.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return Interval(low, 1.0 if successes == trials else min(1.0, middle + half))


def mcnemar_p_value(first_only: int, second_only: int) -> float:
    """Exact two-sided test of two models on the same items, of which each alone got so many right (McNemar 1947).

    mcnemar_p_value(3, 12)  # 0.0352

    Items that both or neither got right say nothing. 1.0 where there are no others.
    """
    trials = first_only + second_only
    ways, tail = 1, 0
    for i in range(min(first_only, second_only) + 1):
        tail += ways
        ways = ways * (trials - i) // (i + 1)
    return min(1.0, 2 * tail / 2**trials)


def mean_estimate(
    values: Sequence[float], weights: Sequence[float] | None = None, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of one value per item; with `weights` sum(w v) / sum(w), such as bits per byte, weighted by bytes.

    mean_estimate([2.0, 3.0, 4.0])  # mean 3.0, error 0.577

    Raises ValueError where there are no values, or weights that are not positive.
    """
    mean, error = _mean_and_error(values, weights)
    if error is None:
        return Estimate(mean, None, None, len(values))
    half = student_quantile(len(values) - 1, confidence) * error
    return Estimate(mean, error, Interval(mean - half, mean + half), len(values))


def clustered_estimate(groups: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Estimate:
    """The mean over prompts of the mean over each prompt's samples; its error is that of the prompts.

    clustered_estimate([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]])  # mean 0.5, error 0.2887
    """
    return mean_estimate(_group_means(groups), confidence=confidence)


def share_estimate(groups: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Estimate:
    """A share of successes (values 0 and 1): one sample per item or several.

    share_estimate([[1], [0], [1], [1]])  # mean 0.75, interval 0.30 to 0.95

    Of one sample each, Wilson's interval. Of several, Wilson's for as many independent trials as have the clustered
    error (Korn & Graubard 1998): mean (1 - mean) / error squared, never more than there are samples; where all items
    agree, as many as there are items. Values between 0 and 1 (pass@k of more than k samples) are taken in the same way,
    with no such limit.
    """
    means = _group_means(groups)
    mean, error = _mean_and_error(means, None)
    trials, samples = float(len(groups)), sum(map(len, groups))
    fractions = any(value not in (0, 1) for group in groups for value in group)
    if error and (fractions or samples > len(groups)):
        trials = mean * (1 - mean) / error**2 if fractions else min(float(samples), mean * (1 - mean) / error**2)
    return Estimate(mean, error, wilson_interval(min(mean * trials, trials), trials, confidence), len(groups))


def grouped_mean(values: Sequence[float], groups: Sequence[int], confidence: float = CONFIDENCE) -> Estimate:
    """The plain mean of `values`, which come in groups: its error is that of the groups, however large each is.

    grouped_mean([1.0, 2.0, 6.0], [0, 0, 1])  # mean 3.0, of two groups

    A ratio of sums over groups (Cochran 1977, eq. 6.9). `groups` says the group of each value.
    """
    by_group = _by_group(values, groups)
    return mean_estimate(_group_means(by_group), [float(len(group)) for group in by_group], confidence)


def grouped_share(values: Sequence[float], groups: Sequence[int], confidence: float = CONFIDENCE) -> Estimate:
    """The plain share of successes (0 and 1; 1/2 for ties) of values that come in groups.

    grouped_share([1, 0, 1, 1], [0, 1, 2, 3])  # mean 0.75, interval 0.30 to 0.95

    Wilson's interval for as many independent trials as have the groups' error (Korn & Graubard 1998), never more than
    there are values; where all values agree, for as many as there are groups.
    """
    by_group = _by_group(values, groups)
    mean, error = _mean_and_error(_group_means(by_group), [float(len(group)) for group in by_group])
    trials = float(len(by_group))
    if error and len(by_group) < len(values):
        trials = min(float(len(values)), mean * (1 - mean) / error**2)
    return Estimate(mean, error, wilson_interval(min(mean * trials, trials), trials, confidence), len(values))


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """The ratio of two means over the same items, by Student's t on the linearised ratio (Cochran 1977, eq. 6.9).

    ratio_estimate([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])  # mean 0.5, error 0

    Raises ValueError where the denominators add up to 0, or there are none. Without an interval for one item.
    """
    total = math.fsum(denominators)
    if not total:
        raise ValueError("a ratio to 0 has no value")
    ratio, count = math.fsum(numerators) / total, len(numerators)
    if count < 2:
        return Estimate(ratio, None, None, count)
    rests = [n - ratio * d for n, d in zip(numerators, denominators, strict=True)]
    error = math.sqrt(math.fsum(rest * rest for rest in rests) * count / (count - 1)) / abs(total)
    half = student_quantile(count - 1) * error
    return Estimate(ratio, error, Interval(ratio - half, ratio + half), count)


def _by_group(values: Sequence[float], groups: Sequence[int]) -> list[list[float]]:
    found: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        found.setdefault(group, []).append(value)
    return list(found.values())


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Second minus first, one value of each per item, in the same order (Miller 2024, section 2.3).

    paired_difference([1, 0, 1, 1], [1, 1, 1, 1]).tied  # True

    Where all values are 0 or 1 the exact test of McNemar decides: the interval is Newcombe's, widened to hold 0 where
    the test does not reject. Raises ValueError where the lengths differ.
    """
    pairs = list(zip(first, second, strict=True))
    mean, error = _mean_and_error([b - a for a, b in pairs], weights)
    if weights is None and all(value in (0, 1) for pair in pairs for value in pair):
        return _share_difference(pairs, mean, error, confidence)
    if error is None:
        return Difference(mean, None, None, len(pairs))
    half = student_quantile(len(pairs) - 1, confidence) * error
    return Difference(mean, error, Interval(mean - half, mean + half), len(pairs))


def _share_difference(
    pairs: Sequence[tuple[float, float]], mean: float, error: float | None, confidence: float
) -> Difference:
    """Of two shares on the same items: the hybrid score interval for paired data (Newcombe 1998, method 10)."""
    both, first_only, second_only = (pairs.count(each) for each in ((1, 1), (1, 0), (0, 1)))
    items = len(pairs)
    first, second = both + first_only, both + second_only
    of_first, of_second = (wilson_interval(count, items, confidence) for count in (first, second))
    correlation = _correlation(both, first_only, second_only, items)
    below = _hybrid(second / items - of_second.low, of_first.high - first / items, correlation)
    above = _hybrid(of_second.high - second / items, first / items - of_first.low, correlation)
    low, high = mean - below, mean + above
    p_value = mcnemar_p_value(first_only, second_only)
    if p_value >= 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(mean, error, Interval(low, high), items, p_value)


def _correlation(both: int, first_only: int, second_only: int, items: int) -> float:
    """Of right answers of the two, with Newcombe's correction for continuity; 0 where one is always right or wrong."""
    first, second = both + first_only, both + second_only
    spread = first * (items - first) * second * (items - second)
    if not spread:
        return 0.0
    product = both * (items - both - first_only - second_only) - first_only * second_only
    return (max(product - items / 2, 0.0) if product > 0 else product) / math.sqrt(spread)


def _hybrid(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one * one - 2 * correlation * one * other + other * other, 0.0))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The probability that one of k samples is right, unbiased, of a problem that got `correct` of `samples` right.

    pass_at_k(10, 3, 5)  # 0.9167

    1 - C(n - c, k) / C(n, k), the mean over all sets of k samples (Chen et al. 2021, eq. 1); 1 - (1 - c / n)^k, which
    is often taken instead, is biased. Raises ValueError unless 0 <= correct <= samples and 1 <= k <= samples.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"pass@{k} of {correct} right in {samples} samples: needs 1 <= k <= samples and correct <= samples"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t, by its expansion around the normal one (Abramowitz, Stegun 26.7.5)."""
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    z = _normal_quantile(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _normal_quantile(confidence: float) -> float:
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 2)


def _group_means(groups: Sequence[Sequence[float]]) -> list[float]:
    if not all(groups):
        raise ValueError("an item without samples has no mean")
    return [statistics.fmean(group) for group in groups]


def _mean_and_error(values: Sequence[float], weights: Sequence[float] | None) -> tuple[float, float | None]:
    """The weighted mean, and its standard error where there are two values or more."""
    if not values:
        raise ValueError("no items: there is no mean")
    weights = weights if weights is not None else [1.0] * len(values)
    if min(weights) <= 0:
        raise ValueError("the weight of an item has to be positive")
    total = math.fsum(weights)
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / total
    if len(values) < 2:
        return mean, None
    squares = math.fsum((w * (v - mean)) ** 2 for w, v in zip(weights, values, strict=True))
    return mean, math.sqrt(squares * len(values) / (len(values) - 1)) / total
