"""From samples to the table: medians, their ratio, and the range of the ratios within single rounds of turns."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.records import Case, Comparison


@dataclass(frozen=True)
class Row:
    """Ours against one peer; a `ratio` above 1 is in our favour, `spread` is its range over the rounds."""

    case: str
    ours: float | None
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    target: str = ""
    reached: bool | None = None
    note: str = ""


def compare(ours: list[float], theirs: list[float]) -> tuple[float, tuple[float, float]]:
    """Ratio of the medians, and the range of the ratios of the runs of one round; both lists are in rounds' order."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return median(ours) / median(theirs), (min(ratios), max(ratios))


def rows_of(case: Case, result: dict[str, Any]) -> list[Row]:
    """One row per comparison that was asked for; where none was, one with our figure alone."""
    name = f"{case.group} {case.name}"
    speeds = {
        contender: [run[case.counts] / run["seconds"] for run in runs] for contender, runs in result["samples"].items()
    }
    if case.ours.name not in speeds:
        return [Row(name, None, note=f"ours: {result['absent'].get(case.ours.name, 'not asked for')}")]
    rows = [_row(name, speeds[case.ours.name], comparison, speeds, result) for comparison in case.comparisons]
    return [row for row in rows if row is not None] or [Row(name, median(speeds[case.ours.name]))]


def _row(
    name: str, ours: list[float], comparison: Comparison, speeds: dict[str, list[float]], result: dict[str, Any]
) -> Row | None:
    target = "" if comparison.target is None else f"≥ {comparison.target:g}"
    contenders = [contender.name for contender in comparison.contenders]
    present = [contender for contender in contenders if contender in speeds]
    if not present:
        reasons = [result["absent"][contender] for contender in contenders if contender in result["absent"]]
        note = f"absent: {reasons[0]}" if reasons else ""
        return Row(name, median(ours), comparison.label, target=target, note=note) if reasons else None
    best = max(present, key=lambda contender: median(speeds[contender]))
    ratio, spread = compare(ours, speeds[best])
    reached = None if comparison.target is None else ratio >= comparison.target
    note = _note(best, contenders, result)
    return Row(name, median(ours), comparison.label, median(speeds[best]), ratio, spread, target, reached, note)


def _note(best: str, contenders: list[str], result: dict[str, Any]) -> str:
    """Which of a peer's configurations it was; what compiling took is said apart, since no run contains it."""
    words = [result["samples"][best][-1].get("setting", best)]
    for name in contenders:
        if name.endswith("compiled") and name in result["warm_ups"]:
            usual = median(sample["seconds"] for sample in result["samples"][name])
            words.append(f"compiling takes {result['warm_ups'][name][0]['seconds'] - usual:.0f} s")
    return "; ".join(words)


def print_table(title: str, rows: list[Row], unit: str) -> None:
    """To standard output, as wide as it needs to be."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (
        "case",
        "against",
        f"ours, {unit}",
        f"theirs, {unit}",
        "ratio",
        "range",
        "target",
        "reached",
        "note",
    ):
        is_text = heading in ("case", "against", "note")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        spread = "" if row.spread is None else f"{row.spread[0]:.2f}–{row.spread[1]:.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        reached = {None: "", True: "yes", False: "NO"}[row.reached]
        figures = ("" if value is None else f"{value:,.0f}" for value in (row.ours, row.theirs))
        table.add_row(row.case, row.peer, *figures, ratio, spread, row.target, reached, row.note)
    Console(highlight=False, markup=False, width=240).print(table)
