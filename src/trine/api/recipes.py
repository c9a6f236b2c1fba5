"""`trine.run`, `trine.quickstart` and `trine.write_report`: a recipe's stages in order, and the page about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trine.api.stages import Result, working
from trine.config.use import QuickstartConfig, ReportConfig, RunConfig
from trine.runtime.files import read_json


@dataclass(frozen=True)
class Report:
    """A report: `path` of report.html, and the same as `text`."""

    path: Path
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class RecipeResult:
    """A finished recipe.

        result = trine.run("quickstart", "runs/mine", minutes=10)
        result.stages["ppo"].figures
        model = trine.load(result.stages["ppo"])

    `path` is the folder of all run folders, `report` the page about them, `stages` the result of each by name.
    """

    path: Path
    report: Path
    stages: Mapping[str, Result]


def run(config: RunConfig) -> RecipeResult:
    """Run a recipe; finished stages are skipped."""
    from trine.pipeline.runner import run as run_recipe

    with working():
        report = run_recipe(config)
    described = read_json(config.out / "recipe.json")["stages"]
    stages = {step["name"]: Result(config.out / step["name"], step["stage"]) for step in described}
    return RecipeResult(config.out, report, stages)


def quickstart(config: QuickstartConfig) -> RecipeResult:
    """The recipe `quickstart`."""
    return run(RunConfig(recipe="quickstart", **config.model_dump()))


def write_report(config: ReportConfig) -> Report:
    """Draw the report of run folders."""
    from trine.report.report import write_report as write

    return Report(*write(config.out, plots=config.plots))
