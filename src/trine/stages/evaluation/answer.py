"""Answers that the model writes, and what they are worth: equal texts, numbers as GSM8K has them, or any function."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trine.algorithms.text_similarity import edit_similarity
from trine.config.tasks import AnswerConfig
from trine.engine.sampling import Sampling
from trine.records import Answer, Message, Rollout
from trine.rewards.function import import_function
from trine.rewards.numbers import last_number, marked_number
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed
from trine.stages.evaluation.in_context import Asked, Asking, InContext, examples_of
from trine.stages.evaluation.task import ItemResult, Metric, Prompt, Subject, TaskRun

SHOWN = "shown"


def _equal_numbers(find: Callable[[str], Fraction | None]) -> Callable[[str, str], float]:
    def worth(text: str, expected: str) -> float:
        number = find(text)
        return float(number is not None and number == last_number(expected))

    return worth


SCORES: dict[str, tuple[Callable[[str, str], float], str]] = {
    "exact": (lambda text, expected: float(text.strip() == expected.strip()), "share"),
    "edit_similarity": (lambda text, expected: edit_similarity(text.strip(), expected.strip()), "mean"),
    "number": (_equal_numbers(marked_number), "share"),
    "last_number": (_equal_numbers(last_number), "share"),
}


@dataclass(frozen=True)
class Written:
    """A prompt with one of the model's answers to it."""

    asked: Asked
    sample: int
    rollout: Rollout
    text: str


def make(name: str, config: AnswerConfig, seed: int) -> "AnswerTask":
    """The task of a file of kind `answer`."""
    return AnswerTask(name, config, seed)


class AnswerTask:
    """What the answers are worth, for every number of shots and every score."""

    def __init__(self, name: str, config: AnswerConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.asked = InContext(name, config, seed)
        self.scores = [score for score in config.scoring if score != SHOWN]
        for score in self.scores:
            if score not in SCORES and ":" not in score:
                known = ", ".join((*SCORES, SHOWN))
                raise TrineError(f"{name}: scoring {score!r} is unknown: {known}, or package.module:function")
        self.functions = {score: import_function(score) for score in self.scores if score not in SCORES}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(
            Metric(
                f"{metric_stem(score)}_{shots}_shots",
                "share" if SCORES.get(score, (None, "mean"))[1] == "share" else "mean",
                over="draws" if shots else "samples",
            )
            for shots in self.config.shots
            for score in self.scores
        )

    def evaluate(self, subject: Subject) -> TaskRun:
        asking = Asking(self.asked, subject, lambda question: self.config.max_new_tokens)
        values: dict[str, dict[str, list[float]]] = {each.item: {} for each in asking.questions}
        answers: dict[str, list[dict[str, Any]]] = {each.item: [] for each in asking.questions}
        for shots in self.config.shots:
            written = list(self._written(subject, list(asking.prompts(shots))))
            worth = {score: self._worth(score, written) for score in self.scores}
            for index, each in enumerate(written):
                of_item = {score: found[index] for score, found in worth.items()}
                answers[each.asked.question.item].append(_answer(each, of_item))
                for score, value in of_item.items():
                    name = f"{metric_stem(score)}_{shots}_shots"
                    values[each.asked.question.item].setdefault(name, []).append(value)
        items = [ItemResult(item, self._per_draw(values[item]), tuple(answers[item])) for item in values]
        return TaskRun(items, {name: count for name, count in asking.counts.items() if count})

    def _per_draw(self, values: dict[str, list[float]]) -> dict[str, tuple[float, ...]]:
        """Samples of a draw come to their mean, so that what is left differs by draw, or else by sample."""
        size = self.config.samples
        return {
            metric.name: tuple(
                statistics.fmean(values[metric.name][start : start + size])
                for start in range(0, len(values[metric.name]), size)
            )
            if metric.over == "draws"
            else tuple(values[metric.name])
            for metric in self.metrics
        }

    def _written(self, subject: Subject, prompts: Sequence[Asked]) -> Iterator[Written]:
        config, answering = self.config, subject.asks_in_chat
        sampling = Sampling(
            config.max_new_tokens,
            config.temperature,
            derive_seed(self.seed, "task", self.name),
            stop_strings=config.stop,
        )
        ids = [subject.prompt_ids(each.prompt) for each in prompts]
        rollouts = subject.generate(ids, sampling, config.samples, answering=answering)
        for index, rollout in enumerate(rollouts):
            prompt, sample = divmod(index, config.samples)
            yield Written(prompts[prompt], sample, rollout, subject.text(rollout, config.stop, answering=answering))

    def _worth(self, score: str, written: Sequence[Written]) -> list[float]:
        if score in SCORES:
            return [SCORES[score][0](each.text, each.asked.question.answer) for each in written]
        answers = [
            Answer(
                _messages(each.asked.prompt),
                each.text,
                each.rollout.ended,
                each.rollout.prompt_ids,
                each.rollout.response_ids,
                columns=each.asked.question.record.fields,
            )
            for each in written
        ]
        found: list[float] = self.functions[score].score(answers).tolist()
        return found


def metric_stem(score: str) -> str:
    """The score's name in a metric's: a function's own."""
    return score.rpartition(":")[2]


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _answer(written: Written, worth: dict[str, float]) -> dict[str, Any]:
    asked = written.asked
    return {
        "shots": asked.shots,
        "draw": asked.draw,
        "sample": written.sample,
        "examples": list(examples_of(asked)),
        "question": asked.question.text,
        "text": written.text,
        "ended": written.rollout.ended,
        "expected": asked.question.answer,
        "worth": worth,
    }
