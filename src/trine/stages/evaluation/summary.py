"""From what every item is worth to figures with intervals, and to differences between two models on the same items."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trine.algorithms.statistics import (
    Difference,
    Estimate,
    mean_estimate,
    paired_difference,
    share_estimate,
)
from trine.stages.evaluation.task import ItemResult, Metric, TaskRun

Figures = dict[str, Any]
"""mean, error, interval [low, high], items, values per item; of draws their deviation too"""


def figures(metrics: Sequence[Metric], run: TaskRun) -> dict[str, Figures]:
    """Every metric of a task for one model, by its name."""
    return {metric.name: _figure(metric, run.items) for metric in metrics}


def estimate(metric: Metric, items: Sequence[ItemResult]) -> Estimate:
    """The mean of a metric over the items with its interval; several values of an item count as one."""
    values = [item.values[metric.name] for item in items]
    if metric.kind == "share":
        return share_estimate(values)
    return mean_estimate([statistics.fmean(each) for each in values], _weights(metric, items))


def difference(metric: Metric, first: Sequence[ItemResult], second: Sequence[ItemResult]) -> Difference:
    """Second minus first over the items that both have; the same item counts with the same weight."""
    known = {item.item: item for item in first}
    shared = [item for item in second if item.item in known]
    before = [statistics.fmean(known[item.item].values[metric.name]) for item in shared]
    after = [statistics.fmean(item.values[metric.name]) for item in shared]
    return paired_difference(before, after, _weights(metric, shared))


def _figure(metric: Metric, items: Sequence[ItemResult]) -> Figures:
    found = _plain(asdict(estimate(metric, items)))
    counts = {len(item.values[metric.name]) for item in items}
    found[metric.over] = counts.pop() if len(counts) == 1 else sorted(counts)
    if metric.over == "draws" and found["draws"] != 1:
        draws = zip(*(item.values[metric.name] for item in items), strict=True)
        found["deviation"] = statistics.stdev(map(statistics.fmean, draws))
    return found


def differences(
    metrics: Sequence[Metric], first: Sequence[ItemResult], second: Sequence[ItemResult]
) -> dict[str, Figures]:
    """Every metric's difference, second minus first; `tied` where its interval holds 0."""
    found = {}
    for metric in metrics:
        each = difference(metric, first, second)
        found[metric.name] = _plain(asdict(each)) | {"tied": each.tied}
    return found


def _weights(metric: Metric, items: Sequence[ItemResult]) -> list[float] | None:
    return [item.weights[metric.weight] for item in items] if metric.weight else None


def _plain(values: Mapping[str, Any]) -> Figures:
    """Intervals as [low, high]."""
    return {key: list(value.values()) if isinstance(value, dict) else value for key, value in values.items()}
