"""What a task is: questions, how a model is asked them, and what every answer is worth. A new kind of task is this.

A task is made from a YAML file (`task_files.py`) and asks a `Subject`, which is a model with its engine. It says which
`Metric`s it has, and for every item what the model's answers are worth; means, intervals and differences are nobody's
task but `summary.py`'s, so that all tasks have them alike.

    class Parity:
        name = "parity"
        metrics = (Metric("accuracy", "share"),)

        def evaluate(self, subject: Subject) -> TaskRun:
            prompts = [subject.prompt_ids(f"Is {n} even or odd? It is") for n in range(100)]
            rollouts = subject.generate(prompts, Sampling(max_new_tokens=1, temperature=0.0))
            texts = [subject.text(rollout) for rollout in rollouts]
            right = [float(text.strip() == ("even", "odd")[n % 2]) for n, text in enumerate(texts)]
            return TaskRun([ItemResult(str(n), {"accuracy": (right[n],)}, ({"text": texts[n]},)) for n in range(100)])

Invariants: items are independent of each other and have the same names for every model, so that models are compared
item by item; several values of an item are of samples (or of draws of its examples), in the same order for every item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from trine.engine.sampling import Sampling
from trine.records import Message, Rollout
from trine.tokenizer.tokenizer import Tokenizer

Prompt = str | tuple[Message, ...]
"""Text that the model goes on with, or a conversation that it answers."""


def as_turn(answer: str) -> str:
    """An answer as a turn of its own: without the blank or line break that joined it to the question.

    as_turn(" positive")  # "positive"

    Indentation, of two blanks or more, stays.
    """
    joined = answer[:1] in (" ", "\n") and answer[1:2] not in (" ", "\t")
    return answer[1:] if joined else answer


@dataclass(frozen=True)
class Metric:
    """One figure of a task.

    `kind`: a share lies in [0, 1] and is mostly 0 or 1 (Wilson, McNemar); a mean is any number (Student's t). `better`:
    which way is good. `weight`: the name in `ItemResult.weights` that weighs the items, such as bytes; empty: all
    alike.
    `over`: what several values of an item are: samples of the model, or draws of the examples in its prompt, whose
    deviation is then given too.
    """

    name: str
    kind: Literal["share", "mean"]
    better: Literal["higher", "lower"] = "higher"
    weight: str = ""
    over: Literal["samples", "draws"] = "samples"


@dataclass(frozen=True)
class ItemResult:
    """What one item came to: for every metric a value per sample or draw, and the answers, which are kept as JSONL.

    `item` names the item within its task. `answers` are JSON objects, whatever is worth reading again.
    """

    item: str
    values: Mapping[str, tuple[float, ...]]
    answers: tuple[Mapping[str, Any], ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRun:
    """All items of a task for one model. `counts`: what has to be known of it, such as {"examples dropped": 3}."""

    items: Sequence[ItemResult]
    counts: Mapping[str, int] = field(default_factory=dict)


class Subject(Protocol):
    """A model that is asked, by its engine; `subject.py` makes one. Ids in, ids out, as everywhere."""

    name: str
    tokenizer: Tokenizer
    context: int
    asks_in_chat: bool
    """whether tasks put their prompts to it as conversations"""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of text to complete (with BOS where the model has one), or of a conversation to answer."""
        ...

    def continuation_ids(self, prompt: Prompt, responses: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """For each response the ids before it and its own, cut at the same place for all of them.

        Text is encoded together with what follows it, as a model reads it; where a response begins inside a token of
        the prompt, that token is the response's. After a conversation, a response is an answer with its end token.
        """
        ...

    def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Of every (ids before, ids of the response) the log-probability of each of the response's tokens, in nats."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, samples: int = 1, *, answering: bool = False
    ) -> list[Rollout]:
        """`samples` rollouts of each prompt, in order. The model's own end tokens are added to those of `sampling`;
        `answering`: those of its conversations."""
        ...

    def text(self, rollout: Rollout, stop_strings: Sequence[str] = (), *, answering: bool = False) -> str:
        """The text of a rollout, without special tokens, up to the first of `stop_strings`."""
        ...


class Task(Protocol):
    """A named set of items, and how a model is asked and scored; see the example at the head of this module."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def evaluate(self, subject: Subject) -> TaskRun:
        """Ask the model everything. Raises `TrineError` where the task cannot be put to it."""
        ...
