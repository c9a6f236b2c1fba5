"""Figures as done.json has them: {"mean", "interval", "items"}, the interval [low, high] or null."""

from typing import Any

from trine.algorithms.statistics import Estimate, Interval


def figure(estimate: Estimate) -> dict[str, Any]:
    """An estimate with its own interval."""
    return with_interval(estimate.mean, estimate.interval, estimate.items)


def with_interval(value: float, interval: Interval | None, items: int) -> dict[str, Any]:
    """A figure whose interval was found apart, as by the bootstrap."""
    return {"mean": value, "interval": [interval.low, interval.high] if interval else None, "items": items}
