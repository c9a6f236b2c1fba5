"""The description of one stage: all that the rest of Trine knows of it, and lazily.

Every part that is code is a reference "package.module:name", followed when it is needed, so that `trine --help` imports
nothing heavy. A description alone makes a stage a command, a step of a recipe, a line of `--dry-run`, and a section of
the report:

    register(Stage("distil", "train a student", config="my.stage:DistilConfig", run="my.stage:run", outputs=("model",)))

The signatures behind the references:

    run       (config) -> Path                                       the run folder
    estimate  (config, {run folder: config} of earlier steps) -> Estimate, for `--dry-run`
    prints    (config, run folder) -> Printed                        what the command writes on standard output
    overview  (results of done.json) -> a few words for the report's first table
    headline  (StageRun, RecipeRun) -> Section                       what to look at first: stands before the overview
    verdicts  (StageRun, RecipeRun) -> [Verdict]                     sentences on top of the page
    sections  (StageRun, RecipeRun) -> Section, each
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trine.runtime.importing import import_module

if TYPE_CHECKING:
    from trine.config.base import StageConfig

Reference = str
"""package.module:name"""


def follow(reference: Reference) -> Any:
    """What `reference` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Estimate:
    """Lines about a run's size, and how many seconds it takes where that can be told beforehand."""

    lines: tuple[str, ...]
    seconds: float | None = None


@dataclass(frozen=True)
class Printed:
    """What a command writes on standard output, and the code it ends with."""

    text: str
    exit_code: int = 0


@dataclass(frozen=True)
class Stage:
    """A stage and where its parts are; the signatures stand at the head of this module.

    `config` is a subclass of `StageConfig` that no other stage has: a run folder finds the description by it.
    `outputs` are the files and folders of the run folder that are this stage's own, besides those that every run has
    (`training/run_folder.py`); starting over removes both. `makes` is what later stages find in the run folder.
    """

    name: str
    help: str
    config: Reference
    run: Reference
    outputs: tuple[str, ...] = ()
    makes: str = ""
    estimate: Reference | None = None
    prints: Reference | None = None
    overview: Reference | None = None
    headline: Reference | None = None
    verdicts: Reference | None = None
    sections: tuple[Reference, ...] = ()

    def config_class(self) -> "type[StageConfig]":
        cls: type[StageConfig] = follow(self.config)
        return cls

    def run_function(self) -> "Callable[[Any], Any]":
        run: Callable[[Any], Any] = follow(self.run)
        return run
