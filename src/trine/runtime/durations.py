"""Durations as people say them."""

MINUTE, HOUR, DAY = 60, 3600, 86400


def spoken(seconds: float) -> str:
    """Two units at most: "40 seconds", "12 minutes", "3 hours 20 minutes", "2 days 4 hours"."""
    if seconds < 100:
        return _count(max(1, round(seconds)), "second")
    if seconds < 100 * MINUTE:
        return _count(round(seconds / MINUTE), "minute")
    unit, smaller, names = (HOUR, MINUTE, ("hour", "minute")) if seconds < 2 * DAY else (DAY, HOUR, ("day", "hour"))
    whole, rest = divmod(round(seconds / smaller), unit // smaller)
    return _count(whole, names[0]) + (f" {_count(rest, names[1])}" if rest and whole < 10 else "")


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
