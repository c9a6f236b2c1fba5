"""Plots as inline SVG whose colours are the page's own CSS variables, so that they follow light and dark.

Made with matplotlib's figure objects, never pyplot: nothing global, no display.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Colour = Literal["ink", "line", "accent", "before", "after", "person"]
# matplotlib's colours; in the SVG each becomes var(--name, value), so that viewers without CSS variables see the value.
COLOURS: dict[Colour, str] = {
    "ink": "#4b535d",
    "line": "#dde1e7",
    "accent": "#3565c9",
    "before": "#6f7f95",
    "after": "#d9660a",
    "person": "#22875e",
}
Group = tuple[str, Sequence[float], Colour]
SIZE = (5.4, 3.1)
COMPACT = (4.0, 2.5)
TEXT = 10.5
"""Points: legible where a figure is as wide as a phone."""
BINS = 30
MAX_POINTS = 600


@dataclass(frozen=True)
class Line:
    """A curve: `faint` is for single steps, `dashed` for a reference; `points` are not joined."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    colour: Colour = "accent"
    style: Literal["solid", "faint", "dashed", "points"] = "solid"


@dataclass(frozen=True)
class Band:
    """The area between two curves, such as the deviation around a mean."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: Colour = "accent"


def loss_lines(steps: Sequence[float], values: Sequence[float], colour: Colour = "accent") -> list[Line]:
    """Every step, faint, and a running mean over a thirtieth of the run."""
    window = max(1, len(values) // 30)
    if window == 1:
        return [Line(steps, values, "each step", colour)]
    smooth = np.convolve(np.asarray(values, float), np.ones(window) / window, "valid")
    return [
        Line(steps, values, "each step", colour, "faint"),
        Line(list(steps[window - 1 :]), smooth.tolist(), f"mean of {window} steps", colour),
    ]


def line_plot(
    lines: Sequence[Line], x_label: str, y_label: str, says: str, *,
    counted: bool = False, compact: bool = False, bands: Sequence[Band] = (),
) -> Markup:  # fmt: skip
    """Curves over a common axis, whole numbers where `counted`; `says` is their text for screen readers."""
    figure, axes = _canvas(x_label, y_label, COMPACT if compact else SIZE)
    for band in bands:
        axes.fill_between(band.x, band.low, band.high, color=COLOURS[band.colour], alpha=0.18, linewidth=0)
    for line in lines:
        _draw(axes, line)
    levels = {value for line in lines for value in line.y}
    if len(levels) == 1:
        axes.set_ylim(bottom=min(0.0, 2 * levels.pop()))
    if counted:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    _legend(axes, len([line for line in lines if line.label]))
    return _svg(figure, says)


def _draw(axes: Axes, line: Line) -> None:
    x, y = _thinned(line.x), _thinned(line.y)
    faint, dashed, points = (line.style == style for style in ("faint", "dashed", "points"))
    axes.plot(
        x, y,
        color=COLOURS[line.colour], label=line.label or "_",
        linewidth=0.8 if faint else 1.8, alpha=0.35 if faint else 1.0,
        linestyle=(0, (4, 3)) if dashed else "" if points else "-",
        marker="D" if points else "o" if len(x) < 12 and not dashed else "", markersize=5 if points else 4,
    )  # fmt: skip


def _thinned(values: Sequence[float]) -> list[float]:
    """At most about `MAX_POINTS` of a long curve."""
    every = max(1, math.ceil(len(values) / MAX_POINTS))
    return [float(value) for value in values[::every]]


def histogram_plot(groups: Sequence[Group], x_label: str, says: str) -> Markup:
    """Distributions over common bins, each with its mean as a dashed line."""
    figure, axes = _canvas(x_label, "number of answers")
    finite = [(label, [v for v in values if math.isfinite(v)], colour) for label, values, colour in groups]
    bins = _bins([value for _, values, _ in finite for value in values])
    for label, values, colour in finite:
        if values:
            axes.hist(values, bins, color=COLOURS[colour], alpha=0.25, linewidth=0)
            axes.hist(values, bins, color=COLOURS[colour], label=label, histtype="step", linewidth=1.6)
            axes.axvline(sum(values) / len(values), color=COLOURS[colour], linestyle=(0, (4, 3)), linewidth=1.2)
    _legend(axes, len(finite))
    return _svg(figure, says)


def _bins(values: Sequence[float]) -> list[float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return [float(edge) for edge in np.linspace(low, high, BINS + 1)]


def reliability_plot(rows: Sequence[Sequence[float]], says: str) -> Markup:
    """Accuracy over confidence; the area of a point is the number of pairs in it."""
    figure, axes = _canvas("confidence (sigmoid of the score difference)", "accuracy")
    axes.plot([0.5, 1.0], [0.5, 1.0], color=COLOURS["before"], linestyle=(0, (4, 3)), linewidth=1.2, label="perfect")
    predicted, right, counts = ([float(row[i]) for row in rows] for i in range(3))
    errors = [math.sqrt(max(p * (1 - p), 0.0) / n) for p, n in zip(right, counts, strict=True)]
    axes.errorbar(predicted, right, errors, color=COLOURS["accent"], alpha=0.5, linewidth=1, fmt="none")
    areas = [12 + 260 * n / sum(counts) for n in counts]
    axes.scatter(predicted, right, areas, color=COLOURS["accent"], label="held-out pairs, by confidence")
    axes.set_xlim(0.48, 1.02)
    _legend(axes, 2)
    return _svg(figure, says)


def probability_plot(rows: Sequence[Sequence[float]], says: str) -> Markup:
    """Shares over probabilities; the area of a point is the number of answers in it, bars are two standard errors."""
    figure, axes = _canvas("probability that the score stands for", "share that is so")
    axes.plot([0.0, 1.0], [0.0, 1.0], color=COLOURS["before"], linestyle=(0, (4, 3)), linewidth=1.2, label="perfect")
    said, true, counts = ([float(row[i]) for row in rows] for i in range(3))
    errors = [2 * math.sqrt(max(p * (1 - p), 0.0) / n) for p, n in zip(true, counts, strict=True)]
    axes.errorbar(said, true, errors, color=COLOURS["accent"], alpha=0.5, linewidth=1, fmt="none")
    areas = [12 + 260 * n / sum(counts) for n in counts]
    axes.scatter(said, true, areas, color=COLOURS["accent"], label="held out, by probability")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    _legend(axes, 2)
    return _svg(figure, says)


def _canvas(x_label: str, y_label: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(size, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for value in (figure.patch, axes.patch):
        value.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOURS["line"])
    axes.grid(color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=TEXT, labelcolor=COLOURS["ink"])
    axes.set_xlabel(x_label, color=COLOURS["ink"], fontsize=TEXT)
    axes.set_ylabel(y_label, color=COLOURS["ink"], fontsize=TEXT)
    return figure, axes


def _legend(axes: Axes, count: int) -> None:
    """Among the curves; above them where there are too many to leave room."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2} if count > 3 else {}
    if count > 1:
        axes.legend(frameon=False, fontsize=TEXT - 0.5, labelcolor=COLOURS["ink"], **place)


def standalone(svg: Markup) -> str:
    """A plot as a file: with its namespaces, a font, and a ground to be seen on, light or dark."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening, rest = str(svg).split(">", 1)
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f'{opening.replace("<svg", f"<svg {spaces}", 1)} font-family="sans-serif">{ground}{rest}'


def _svg(figure: Figure, says: str) -> Markup:
    """The figure without prolog, metadata, sizes and ids of groups, its colours turned into variables."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": says}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    box = re.search(r'viewBox="([^"]*)"', body)
    inner = body[body.index(">") + 1 :]
    for name, value in COLOURS.items():
        inner = inner.replace(value, f"var(--{name}, {value})")
    opening = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{escape(says)}">'
    return Markup(opening + inner)
