"""A stage that nothing in `src/` knows: its description, and the parts that the description refers to.

It counts to `count`, writes toy.json and notes/, and stops where the run is interrupted, as a real stage does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trine.config.base import LoopConfig, PositiveInt, StageConfig
from trine.config.stage import Estimate, Stage
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Section, titled
from trine.report.tables import Table
from trine.runtime.files import read_json, write_json
from trine.runtime.signals import stop_request
from trine.training.run_folder import open_run

TOY = Stage(
    name="toy",
    help="count, as a stage would",
    config="tests.toy_stage:ToyConfig",
    run="tests.toy_stage:run",
    outputs=("toy.json", "notes"),
    makes="a number",
    estimate="tests.toy_stage:estimate",
    overview="tests.toy_stage:overview",
    sections=("tests.toy_stage:section",),
)


class ToyConfig(StageConfig):
    """Count from 1 to `count`."""

    count: PositiveInt = 3
    """how far to count"""
    after: Path | None = None
    """run folder of another toy, to count on from where it ended"""
    loop: LoopConfig = LoopConfig()


def run(config: ToyConfig) -> Path:
    """Count, saving after each number."""
    with open_run(config, {}) as folder:
        if folder.finished:
            return folder.path
        state = folder.path / "toy.json"
        number = read_json(state)["number"] if state.exists() else 0
        folder.forget_after(number)
        while number < config.count:
            number += 1
            folder.log({"step": number, "number": number})
            write_json(state, {"number": number})
            stop_request.check()
        (folder.path / "notes").mkdir(exist_ok=True)
        start = read_json(config.after / "done.json")["number"] if config.after else 0
        folder.finish({"number": start + number})
    return folder.path


def estimate(config: ToyConfig, earlier: Mapping[Path, StageConfig]) -> Estimate:
    before = earlier.get(config.after) if config.after else None
    start = before.count if isinstance(before, ToyConfig) else 0
    return Estimate((f"numbers: {start + config.count}",))


def overview(results: dict[str, Any]) -> str:
    return f"counted to {results['number']}"


def section(run: FinishedStage, recipe: RecipeRun) -> Section:
    table = Table(("step", "number"), [(str(row["step"]), str(row["number"])) for row in run.metrics])
    return Section(titled("Counting", run, recipe), "One number a step.", [table])
