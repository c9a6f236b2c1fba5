"""Sections on the data between the models: one mined task, and one preference pair, as they stand in the files."""

from collections.abc import Sequence
from typing import Any

from trine.report.pretraining_sections import account_table
from trine.report.run_reader import FinishedStage, RecipeRun, RunReader
from trine.report.sections import Answer, Sample, Section, titled
from trine.report.tables import Table, whole

WHERE = "Shown is the first record of train.jsonl; nothing is chosen by how it looks."


def functions_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How many tasks there are, and one of them."""
    words = (
        "Every function of the corpus that has a docstring is a task: signature and docstring are the prompt, the body "
        f"is the answer. {WHERE}"
    )
    counts = {"train": "for training", "held_out_reward": "for the held-out reward model", "held_out": "held out"}
    rows = [(label, whole(run.results.get(key))) for key, label in counts.items() if key in run.results]
    row = first_record(run, recipe)
    samples = (
        [] if row is None else [Sample(prompt_text(row), [_text(row, "response", "person", "What a person wrote")])]
    )
    tables = [*_counted("tasks", rows), *(table for table in (account_table(run.results),) if table.rows)]
    return Section(titled("Tasks", run, recipe), words, tables, samples=samples)


def reasoning_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How many prompts of which tasks there are, and one of them."""
    words = "Questions that reasoning-gym made and scores: " + ", ".join(run.results.get("tasks", [])) + "."
    rows = [(label, whole(run.results.get(key))) for key, label in (("train", "to train on"), ("held_out", "held out"))]
    row = first_record(run, recipe)
    samples = [] if row is None else [Sample(prompt_text(row), [_text(row, "answer", "person", "The answer")])]
    return Section(titled("Prompts", run, recipe), words, _counted("prompts", rows), samples=samples)


def split_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """The parts, how many texts and groups each has, and their labels."""
    by = run.config.get("by")
    words = (
        "The texts were divided into parts that have no "
        f"{by or 'text'} in common: what is measured on one part says something of texts that the others never showed."
    )
    labels = run.results.get("labels", {})
    rows = [
        (name, whole(part.get("records")), whole(part.get("groups")), _labels(labels.get(name, {})))
        for name, part in run.results.get("parts", {}).items()
    ]
    heading = ("part", "texts", by or "different texts", "labels")
    tables = [Table(heading, rows, brief=False, title="Parts")] if rows else []
    return Section(titled("Parts of the texts", run, recipe), words, tables)


def _labels(counts: dict[str, Any]) -> str:
    return ", ".join(f"{label or 'none'} {whole(count)}" for label, count in sorted(counts.items()))


def preferences_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How many pairs there are, and one of them."""
    words = (
        "For each prompt the fine-tuned model sampled an answer: what a person wrote is preferred to it. A reward "
        f"model learns to tell the two apart. {WHERE}"
    )
    counts = {"train": "pairs to train on", "held_out": "pairs held out", "left_out": "samples cut at max_new_tokens"}
    rows = [(label, whole(run.results.get(key))) for key, label in counts.items() if key in run.results]
    row = first_record(run, recipe)
    sides = [] if row is None else [
        _text(row, "chosen", "person", "Chosen: what a person wrote"),
        _text(row, "rejected", "before", "Rejected: what the model sampled"),
    ]  # fmt: skip
    samples = [] if row is None else [Sample(prompt_text(row), sides)]
    return Section(titled("Preference pairs", run, recipe), words, _counted("pairs", rows), samples=samples)


def _counted(name: str, rows: Sequence[tuple[str, ...]]) -> list[Table]:
    return [Table(("", name), rows, brief=False, title=f"Number of {name}")] if rows else []


def first_record(run: FinishedStage, recipe: RecipeRun) -> dict[str, Any] | None:
    """The first record of the run's train.jsonl; None where it cannot be read."""
    reader = RunReader()
    row = reader.first_row(run.folder / "train.jsonl")
    recipe.notes.extend(reader.notes)
    return row


def prompt_text(row: dict[str, Any]) -> str:
    """The text of a prompt, which is a text or a list of messages."""
    prompt = row.get("prompt", "")
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))
    return str(prompt)


def _text(row: dict[str, Any], key: str, side: Any, heading: str) -> Answer:
    return Answer(side, heading, str(row.get(key, "")))
