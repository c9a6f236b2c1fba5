"""Tasks of `trine evaluate` as they are written in YAML, and which kinds of them there are.

A kind is described once: the class of its file, and the function that makes a `Task` (`stages/evaluation/task.py`) of
it, `make(name, config, seed)`. `register_kind` adds one:

    register_kind(TaskKind("parity", config="my.tasks:ParityConfig", make="my.tasks:make"))

`records` of a file that comes to `make` are the place of a file that exists; paths in a task's file are seen from it.
Templates are Jinja2 with the fields of a record as variables.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trine.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveInt
from trine.config.stage import Reference

Normalized = Literal["sum", "per_token", "per_character", "per_byte"]


class TaskConfig(Config):
    """What the file of every task says."""

    kind: str
    """which kind of task it is"""
    about: str = ""
    """what it asks, in a sentence"""
    records: str | None = None
    """file of records (JSON Lines, JSON, CSV, TSV, Parquet; .gz); package:NAME/PATH is a file of an installed package.
    null: given on the command line, --data TASK=FILE"""
    where: str | None = None
    """template of the records that count: left out where it gives False, 0 or nothing; null: all"""
    max_items: PositiveInt | None = None
    """ask at most this many, chosen at random by the seed; null: all"""


class PromptTaskConfig(TaskConfig):
    """A task that asks with a prompt, with examples in it or none (Brown et al. 2020)."""

    instruction: str = ""
    """what stands before everything, as it is"""
    template: str
    """template of the question"""
    answer: str
    """template of the right answer; it follows the question at once, so a blank between them is part of it"""
    separator: str = "\n\n"
    """what stands between examples, and between them and the question"""
    shots: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """how many examples; each number is asked by itself"""
    draws: PositiveInt = 5
    """how many sets of examples are drawn; every item is asked with each of them"""
    pool: str | None = None
    """file that examples are drawn from, as `records`; null: the records themselves, those not asked included"""

    @model_validator(mode="after")
    def _differ(self) -> "PromptTaskConfig":
        if len(set(self.shots)) < len(self.shots):
            raise ValueError(f"shots={list(self.shots)} names a number twice")
        return self


class ChoiceConfig(PromptTaskConfig):
    """The most likely of several answers."""

    kind: Literal["choice"]
    choices: tuple[str, ...] = ()
    """templates of the answers to choose from"""
    choices_field: str | None = None
    """in place of choices: the name of a field that holds a list of them"""
    distractors: NonNegativeInt = 0
    """in place of choices: that many right answers of other records, chosen at random by the seed, are the wrong"""
    scoring: Annotated[tuple[Normalized, ...], Field(min_length=1)] = ("sum",)
    """what likelihoods are compared by, each a figure of its own"""
    calibrate: bool = False
    """give each figure calibrated too: likelihoods over those after a question without content (Zhao et al. 2021);
    needs the same choices for every item"""
    content_free: Annotated[tuple[str, ...], Field(min_length=1)] = ("N/A", "", "[MASK]")
    """what stands in place of every field of the question to calibrate with; the mean over them is taken"""

    @model_validator(mode="after")
    def _choosable(self) -> "ChoiceConfig":
        if bool(self.choices) + (self.choices_field is not None) + bool(self.distractors) != 1:
            raise ValueError("give one of choices, choices_field and distractors")
        if self.calibrate and (not self.choices or any("{{" in choice for choice in self.choices)):
            raise ValueError("calibrate needs choices that are the same for every item")
        return self


class AnswerConfig(PromptTaskConfig):
    """Answers that the model writes, compared with the right ones."""

    kind: Literal["answer"]
    scoring: Annotated[tuple[str, ...], Field(min_length=1)] = ("exact",)
    """what an answer is worth, each a figure of its own. exact: the same text but for white space around it;
    edit_similarity: 1 - edit distance / the longer length; number: the number behind the last ####; last_number: that,
    or without #### the last number there is; shown: nothing, the answers are for a person to read;
    package.module:function: what that Python function of (prompts, answers) returns, one number each"""
    max_new_tokens: PositiveInt = 64
    """token budget of an answer"""
    stop: tuple[str, ...] = ("\n",)
    """texts that end an answer"""
    temperature: NonNegativeFloat = 0.0
    """sampling temperature; 0 is greedy"""
    samples: PositiveInt = 1
    """answers per prompt; errors are clustered by prompt"""


class BitsPerByteConfig(TaskConfig):
    """How many bits the model needs for each byte of a text; comparable between tokenizers."""

    kind: Literal["bits_per_byte"]
    text: str = "{{ text }}"
    """template of the text"""


class NextLineConfig(TaskConfig):
    """The next line of a text, written greedily after all that stands before it."""

    kind: Literal["next_line"]
    text: str = "{{ text }}"
    """template of the text; one of its lines, chosen at random by the seed, is asked for"""
    min_lines: PositiveInt = 1
    """at least this many lines stand before the one that is asked for"""
    max_new_tokens: PositiveInt = 64
    """token budget of a line; longer ones are not asked for"""


@dataclass(frozen=True)
class TaskKind:
    """A kind of task, and where its parts are; see the head of this module."""

    name: str
    config: Reference
    make: Reference


KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind("choice", "trine.config.tasks:ChoiceConfig", "trine.stages.evaluation.choice:make"),
        TaskKind("answer", "trine.config.tasks:AnswerConfig", "trine.stages.evaluation.answer:make"),
        TaskKind(
            "bits_per_byte", "trine.config.tasks:BitsPerByteConfig", "trine.stages.evaluation.texts:make_bits_per_byte"
        ),
        TaskKind("program", "trine.config.programs:ProgramConfig", "trine.stages.evaluation.program:make"),
        TaskKind("next_line", "trine.config.tasks:NextLineConfig", "trine.stages.evaluation.texts:make_next_line"),
    )
}


def register_kind(kind: TaskKind) -> None:
    """Make a kind of task known; one of the same name is replaced."""
    KINDS[kind.name] = kind


@dataclass(frozen=True)
class TaskFile:
    """A task as it was read: its name, and where its file is, from which its paths are seen (None: a shipped one)."""

    name: str
    config: TaskConfig
    folder: Path | None
    text: str
