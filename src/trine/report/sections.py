"""What the report says of a run, section by section, in a form that page and terminal both draw from.

Every section tells in a sentence or two what one is looking at and what good looks like.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from trine.report.run_reader import RecipeRun, StageRun
from trine.report.tables import Table, duration, number, percent, whole

COMMIT_LENGTH = 12


@dataclass(frozen=True)
class Plot:
    """A drawing and the line below it; a `leading` one stands above the others, larger."""

    svg: Markup
    caption: str
    leading: bool = False


@dataclass(frozen=True)
class Answer:
    """One text beside others; `side` chooses its colour."""

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
class Film:
    """A video as a data: address, and its caption."""

    address: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, the sentences below it, tables, plots, samples and videos."""

    title: str
    words: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)


def titled(title: str, run: StageRun, recipe: RecipeRun) -> str:
    """`title`, with the stage's name where several stages of its kind need telling apart."""
    return title if len(recipe.of_kind(run.stage)) == 1 else f"{title}: {run.name}"


def overview_section(recipe: RecipeRun) -> Section:
    """What was run, on what, and how long it took."""
    seconds = [run.seconds for run in recipe.stages if run.seconds is not None]
    rows = [(_named(run), duration(run.seconds), made(run)) for run in recipe.stages]
    rows.append(("total", duration(sum(seconds)), ""))
    return Section(
        "What was run",
        "The stages in order, what each made and how long it took. The same recipe, seed and versions on the same "
        "kind of machine make the same models.",
        [
            Table(("stage", "time", "what it made"), rows, prose=True),
            Table(("", ""), _facts(recipe), prose=True),
        ],
    )


def _named(run: StageRun) -> str:
    return run.name if run.name == run.stage else f"{run.name} ({run.stage})"


def _facts(recipe: RecipeRun) -> list[tuple[str, ...]]:
    made_with = recipe.made_with()
    if "commit" in made_with:
        made_with["commit"] = ", ".join(commit[:COMMIT_LENGTH] for commit in made_with["commit"].split(", "))
    rows: list[tuple[str, ...]] = [("seed", str(recipe.seed))]
    if recipe.minutes is not None:
        rows.append(("budget", f"{recipe.minutes:g} minutes"))
    corpora = dict.fromkeys(str(run.results["corpus"]) for run in recipe.stages if "corpus" in run.results)
    return [*rows, *(("corpus", text) for text in corpora), *made_with.items()]


def made(run: StageRun) -> str:
    """A few words on what a stage made."""
    say: dict[str, Callable[[dict[str, Any]], str]] = {
        "tokenizer": lambda r: f"{whole(r.get('vocab_size'))} tokens, {number(r.get('bytes_per_token'), 2)} bytes each",
        "functions": lambda r: (
            f"{whole(r.get('train'))} tasks for training, {whole(r.get('held_out_reward'))} for the held-out reward "
            f"model, {whole(r.get('held_out'))} held out"
        ),
        "shards": lambda r: (
            f"{whole(_parts(r, 'documents'))} documents in {whole(_parts(r, 'tokens'))} tokens, "
            f"{number(r.get('bytes_per_token'), 2)} bytes each"
        ),
        "pretrain": lambda r: f"{whole(r.get('parameters'))} parameters, read {whole(r.get('tokens'))} tokens",
        "finetune": lambda r: f"trained on {whole(r.get('examples'))} examples",
        "preferences": lambda r: (
            f"{whole(r.get('train'))} preference pairs for training, {whole(r.get('held_out'))} held out; "
            f"{whole(r.get('left_out'))} samples without an end token"
        ),
        "reward": lambda r: f"trained on {whole(r.get('training_pairs'))} pairs; accuracy {percent(r.get('accuracy'))}",
        "ppo": lambda r: f"{whole(r.get('iterations'))} iterations",
        "evaluate": lambda r: f"{whole(r.get('prompts'))} answers before and after",
        "control": lambda r: f"an agent from {whole(r.get('environment_steps'))} steps",
    }
    return say[run.stage](run.results) if run.stage in say else ""


def _parts(results: dict[str, Any], key: str) -> float:
    """Sum over the training part and the held-out ones."""
    return sum(part.get(key, 0) for part in (results.get("parts") or {}).values())


def units(run: StageRun | None) -> str:
    """What one unit of a reward model's score is."""
    return "standard deviations" if run is None or run.config.get("normalize", True) else "raw"
