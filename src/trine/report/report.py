"""The report of a recipe: run folders in, one HTML page and the same as plain text out.

The page stands alone: plots are inline SVG, nothing is loaded, no script runs. Everything a model wrote is escaped.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from trine.report.control_sections import control_section
from trine.report.outcome import (
    completions_section,
    evaluation_section,
    gains,
    headline_section,
    samples_section,
)
from trine.report.plots import standalone
from trine.report.pretraining_sections import pretrain_section, shards_section
from trine.report.run_reader import RecipeRun, StageRun, read_recipe_run
from trine.report.sections import Section, overview_section
from trine.report.tables import WIDTH, duration, printable, shortened
from trine.report.training_sections import finetune_section, ppo_section, reward_section
from trine.runtime.files import write_text

# The page's order; a kind that is not here has its line in the overview and no section of its own.
SECTIONS: tuple[tuple[str, Callable[[StageRun, RecipeRun], Section]], ...] = (
    ("evaluate", headline_section),
    ("shards", shards_section),
    ("pretrain", pretrain_section),
    ("finetune", finetune_section),
    ("reward", reward_section),
    ("ppo", ppo_section),
    ("control", control_section),
    ("evaluate", evaluation_section),
    ("evaluate", samples_section),
    ("evaluate", completions_section),
)


def write_report(out: Path, *, plots: bool = False) -> tuple[Path, str]:
    """Write `out`/report.html from what is finished in `out`; returns its path and the report as text.

    With `plots`, every plot is written as `out`/plots/SECTION-NUMBER.svg too.
    """
    recipe = read_recipe_run(Path(out))
    sections = _sections(recipe)
    path = Path(out) / "report.html"
    write_text(path, _writable(_page(recipe, sections)))
    if plots:
        _write_plots(Path(out) / "plots", sections)
    return path, _writable(_text(recipe, sections))


def _write_plots(folder: Path, sections: list[Section]) -> None:
    for section in sections:
        name = "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())
        for number, plot in enumerate(section.plots, 1):
            write_text(folder / f"{name}-{number}.svg", standalone(plot.svg))


def _sections(recipe: RecipeRun) -> list[Section]:
    """Headline first, then the overview, then the stages' own; empty ones left out."""
    made = [make(run, recipe) for stage, make in SECTIONS for run in recipe.of_kind(stage)]
    filled = [section for section in made if section.tables or section.plots or section.samples]
    headlines = len(recipe.of_kind("evaluate"))
    return [*filled[:headlines], overview_section(recipe), *filled[headlines:]]


def _page(recipe: RecipeRun, sections: list[Section]) -> str:
    environment = Environment(loader=PackageLoader("trine.report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template("report.html.j2").render(
        recipe=recipe,
        summary=_summary(recipe),
        gains=[gain for run in recipe.of_kind("evaluate") for gain in gains(run)],
        sections=sections,
    )


def _summary(recipe: RecipeRun) -> str:
    seconds = sum(run.seconds or 0.0 for run in recipe.stages)
    count = len(recipe.stages)
    return f"{count} {'stage' if count == 1 else 'stages'} in {duration(seconds)}, seed {recipe.seed}"


def _text(recipe: RecipeRun, sections: list[Section]) -> str:
    """Titles and key tables, the headline last: that is where a terminal's reader looks."""
    headlines = len(recipe.of_kind("evaluate"))
    parts = [*_wrapped(recipe.title), _summary(recipe)]
    for section in [*sections[headlines:], *sections[:headlines]]:
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
