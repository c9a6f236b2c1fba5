"""The report of a recipe: run folders in, one HTML page and the same as plain text out.

Which sections a stage has, and which figures stand on top of the page, is in its description (`config/stages.py`). The
page stands alone: plots are inline SVG, nothing is loaded, no script runs. Everything a model wrote is escaped.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from trine.config.registry import STAGES
from trine.config.stage import Reference, follow
from trine.report.overview import overview_section
from trine.report.plots import standalone
from trine.report.run_reader import RecipeRun, read_recipe_run
from trine.report.sections import Section
from trine.report.tables import WIDTH, duration, printable, shortened
from trine.runtime.files import write_text


@dataclass(frozen=True)
class Sections:
    """What to look at first, and everything else, from the overview on."""

    headlines: list[Section]
    rest: list[Section]


def write_report(out: Path, *, plots: bool = False) -> tuple[Path, str]:
    """Write `out`/report.html from what is finished in `out`; returns its path and the report as text.

    With `plots`, every plot is written as `out`/plots/SECTION-NUMBER.svg too.
    """
    recipe = read_recipe_run(Path(out))
    sections = _sections(recipe)
    path = Path(out) / "report.html"
    write_text(path, _writable(_page(recipe, sections)))
    if plots:
        _write_plots(Path(out) / "plots", [*sections.headlines, *sections.rest])
    return path, _writable(_text(recipe, sections))


def _write_plots(folder: Path, sections: list[Section]) -> None:
    for section in sections:
        name = "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())
        for number, plot in enumerate(section.plots, 1):
            write_text(folder / f"{name}-{number}.svg", standalone(plot.svg))


def _sections(recipe: RecipeRun) -> Sections:
    """Headlines, then the overview, then the stages' sections in the order of the descriptions; empty ones left out."""
    stages = STAGES.values()
    headlines = [section for stage in stages for section in _made(recipe, stage.name, stage.headline)]
    own = [section for stage in stages for each in stage.sections for section in _made(recipe, stage.name, each)]
    return Sections(headlines, [overview_section(recipe), *own])


def _made(recipe: RecipeRun, stage: str, section: Reference | None) -> list[Section]:
    """The section of every run of `stage` that has something to show there."""
    made = [follow(section)(run, recipe) for run in recipe.of_stage(stage)] if section else []
    return [section for section in made if section.tables or section.plots or section.samples]


def _gains(recipe: RecipeRun) -> list[Any]:
    """Label, figure and detail of each large figure on top of the page."""
    described = [(stage.name, follow(stage.gains)) for stage in STAGES.values() if stage.gains]
    return [gain for stage, gains in described for run in recipe.of_stage(stage) for gain in gains(run)]


def _page(recipe: RecipeRun, sections: Sections) -> str:
    environment = Environment(loader=PackageLoader("trine.report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template("report.html.j2").render(
        recipe=recipe,
        subtitle=_subtitle(recipe),
        gains=_gains(recipe),
        headlines=len(sections.headlines),
        sections=[*sections.headlines, *sections.rest],
    )


def _subtitle(recipe: RecipeRun) -> str:
    seconds = sum(run.seconds or 0.0 for run in recipe.stages)
    count = len(recipe.stages)
    return f"{count} {'stage' if count == 1 else 'stages'} in {duration(seconds)}, seed {recipe.seed}"


def _text(recipe: RecipeRun, sections: Sections) -> str:
    """Titles and key tables, the headline last: that is where a terminal's reader looks."""
    parts = [*_wrapped(recipe.title), _subtitle(recipe)]
    for section in [*sections.rest, *sections.headlines]:
        tables = [table for table in section.tables if table.brief]
        if tables:
            title = shortened(section.title, WIDTH)
            parts += ["", title, "=" * len(title), *(f"{table.text()}\n" for table in tables)]
    return "\n".join(parts).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(printable(text), WIDTH) or [""]


def _writable(text: str) -> str:
    """Half of a surrogate pair, which a model may write, is no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
