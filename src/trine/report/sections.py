"""A section of the report, in the form that both the page and the terminal are made from.

Every section says in a sentence or two what it shows and what good looks like.
"""

from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.tables import Table

# What a section raises where done.json or metrics.jsonl are JSON, but not what the stage wrote.
MISSHAPEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Plot:
    """A plot and its caption; a `leading` one stands above the others, larger."""

    svg: Markup
    caption: str
    leading: bool = False


@dataclass(frozen=True)
class Answer:
    """One text among several; `side` chooses its colour."""

    side: Literal["before", "after", "person", "plain"]
    heading: str
    text: str
    scores: str = ""


@dataclass(frozen=True)
class Sample:
    """A prompt and several answers to it."""

    prompt: str
    answers: list[Answer]


@dataclass(frozen=True)
class TokenRow:
    """A training row: what it is, and of each example a heading and its tokens, each with whether it is trained."""

    heading: str
    examples: list[tuple[str, list[tuple[str, bool]]]]


@dataclass(frozen=True)
class Film:
    """An animated GIF as a data: address, and its caption."""

    address: str
    caption: str


@dataclass(frozen=True)
class Verdict:
    """What a run showed, in a sentence with its interval; `shown`: whether the interval leaves out no difference.

    A `warning` is red: something is shown that speaks against using what was made.
    """

    sentence: str
    detail: str = ""
    shown: bool = True
    warning: bool = False

    @property
    def spoken(self) -> str:
        """The sentence as it is printed: colour alone is not seen by everybody."""
        return f"Warning: {self.sentence}" if self.warning else self.sentence


@dataclass(frozen=True)
class Section:
    """A heading, the sentences below it, and films, plots, tables, training rows and samples, in this order."""

    title: str
    words: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    token_rows: list[TokenRow] = field(default_factory=list)


def titled(title: str, run: FinishedStage, recipe: RecipeRun) -> str:
    """`title`, and the run's name where the recipe has several runs of its stage."""
    return title if len(recipe.of_stage(run.stage)) == 1 else f"{title}: {run.name}"


def units(run: FinishedStage | None) -> str:
    """Whether a reward model's scores were scaled after training, or are as it gives them."""
    return "normalized" if run is None or run.config.get("normalize", True) else "raw"
