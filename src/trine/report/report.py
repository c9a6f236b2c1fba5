"""The report of a recipe: run folders in, one HTML page and the same as plain text out.

Which sections a stage has, and which sentences stand on top of the page, is in its description (`config/stages.py`).
The page stands alone: plots are inline SVG, nothing is loaded, no script runs. Everything a model wrote is escaped.
What cannot be read or drawn is left out with a note; nothing is missing without one.
"""

import re
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
from trine.report.sections import MISSHAPEN, Section, Verdict
from trine.report.tables import WIDTH, duration, printable, shortened
from trine.runtime.files import write_text


@dataclass(frozen=True)
class Report:
    """What the runs showed, what to look at first, a section or more of each stage, and what was run."""

    recipe: RecipeRun
    verdicts: list[Verdict]
    headlines: list[Section]
    stages: list[Section]
    overview: Section

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(self.recipe.notes))


def write_report(out: Path, *, plots: bool = False) -> tuple[Path, str]:
    """Write `out`/report.html from what is finished in `out`; returns its path and the report as text.

    With `plots`, every plot is written as `out`/plots/SECTION-NUMBER.svg too.
    """
    report = _report(read_recipe_run(Path(out)))
    path = Path(out) / "report.html"
    write_text(path, _writable(_page(report)))
    if plots:
        _write_plots(Path(out) / "plots", [*report.headlines, *report.stages])
    return path, _writable(_text(report))


def _write_plots(folder: Path, sections: list[Section]) -> None:
    for section in sections:
        name = "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())
        for number, plot in enumerate(section.plots, 1):
            write_text(folder / f"{name}-{number}.svg", standalone(plot.svg))


def _report(recipe: RecipeRun) -> Report:
    """Sections in the order of the stages' descriptions; empty ones are left out."""
    stages = STAGES.values()
    verdicts = [each for stage in stages for made in _made(recipe, stage.name, stage.verdicts) for each in made]
    headlines = [section for stage in stages for section in _sections(recipe, stage.name, stage.headline)]
    own = [section for stage in stages for each in stage.sections for section in _sections(recipe, stage.name, each)]
    return Report(recipe, verdicts, headlines, own, overview_section(recipe))


def _sections(recipe: RecipeRun, stage: str, section: Reference | None) -> list[Section]:
    """The section of every run of `stage` that has something to show there."""
    made = _made(recipe, stage, section)
    return [section for section in made if section.tables or section.plots or section.samples]


def _made(recipe: RecipeRun, stage: str, part: Reference | None) -> list[Any]:
    """`part` of every run of `stage`, or a note where its files do not hold what that needs."""
    made = []
    for run in recipe.of_stage(stage) if part else []:
        try:
            made.append(follow(str(part))(run, recipe))
        except MISSHAPEN as error:
            name = str(part).rpartition(":")[2]
            why = shortened(f"{type(error).__name__}: {error}", 60)
            recipe.notes.append(f"{run.folder}: done.json and metrics.jsonl do not hold what {name} needs ({why})")
    return made


def _page(report: Report) -> str:
    environment = Environment(loader=PackageLoader("trine.report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template("report.html.j2").render(
        recipe=report.recipe,
        subtitle=_subtitle(report.recipe),
        verdicts=report.verdicts,
        notes=report.notes,
        headlines=len(report.headlines),
        sections=[*report.headlines, *report.stages, report.overview],
    )


def _subtitle(recipe: RecipeRun) -> str:
    seconds = sum(run.seconds or 0.0 for run in recipe.stages)
    count = len(recipe.stages)
    return f"{count} {'stage' if count == 1 else 'stages'} in {duration(seconds)}, seed {recipe.seed}"


def _text(report: Report) -> str:
    """Titles and key tables, the verdict and the headline last: that is where a terminal's reader looks."""
    parts = [*_wrapped(report.recipe.title), _subtitle(report.recipe)]
    parts += [text for section in [report.overview, *report.stages] for text in _section_text(section)]
    parts += ["", *(line for note in report.notes for line in _wrapped(f"not shown: {note}"))]
    parts += ["", *(line for verdict in report.verdicts for line in _wrapped(verdict.spoken))]
    parts += [text for section in report.headlines for text in _section_text(section)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _section_text(section: Section) -> list[str]:
    tables = [table for table in section.tables if table.brief]
    title = shortened(section.title, WIDTH)
    return ["", title, "=" * len(title), *(f"{table.text()}\n" for table in tables)] if tables else []


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(printable(text), WIDTH) or [""]


def _writable(text: str) -> str:
    """Half of a surrogate pair, which a model may write, is no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
