"""Choice by likelihood: the answer that the model finds most likely of several, in whichever of the named senses.

Calibrated (Zhao et al. 2021, "Calibrate Before Use", eq. 1): a model prefers some labels whatever is asked, most of all
those of the examples before it. The label prior is what it gives them after a question without content, in the same
prompt; each label's probability is divided by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from trine.algorithms.text_likelihood import Likelihood, Normalization
from trine.config.tasks import ChoiceConfig
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for
from trine.stages.evaluation.in_context import Asked, Asking, InContext, Question, duplicate_key, examples_of
from trine.stages.evaluation.records import Record, Template
from trine.stages.evaluation.task import ItemResult, Metric, Prompt, Subject, TaskRun


@dataclass(frozen=True)
class Choices:
    """What an item's answers are to be chosen from, and which place has the right one."""

    texts: tuple[str, ...]
    right: int


def make(name: str, config: ChoiceConfig, seed: int) -> "ChoiceTask":
    """The task of a file of kind `choice`."""
    return ChoiceTask(name, config, seed)


class ChoiceTask:
    """Accuracy of the most likely choice: for every number of shots and every sense of likely, calibrated and not."""

    def __init__(self, name: str, config: ChoiceConfig, seed: int) -> None:
        self.name, self.config = name, config
        self.asked = InContext(name, config, seed)
        self._templates = [Template(each, f"{name}: choices") for each in config.choices]
        self._choices = self._all_choices(seed)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(
            Metric(metric_name(shots, by, calibrated), "share", over="draws" if shots else "samples")
            for shots, by, calibrated in self._variants()
        )

    def _variants(self) -> list[tuple[int, Normalization, bool]]:
        calibrated = (False, True) if self.config.calibrate else (False,)
        return list(product(self.config.shots, self.config.scoring, calibrated))

    def evaluate(self, subject: Subject) -> TaskRun:
        asking = Asking(self.asked, subject, lambda question: self._room(subject, question))
        values: dict[str, dict[str, list[float]]] = {each.item: {} for each in asking.questions}
        answers: dict[str, list[dict[str, Any]]] = {each.item: [] for each in asking.questions}
        for shots in self.config.shots:
            prompts = list(asking.prompts(shots))
            priors = self._priors(subject, prompts) if self.config.calibrate else {}
            for asked, found in zip(prompts, self._likelihoods(subject, prompts), strict=True):
                right = self._choices[asked.question.item].right
                chosen = self._chosen(found, priors.get(examples_of(asked)), shots)
                for metric, place in chosen.items():
                    values[asked.question.item].setdefault(metric, []).append(float(place == right))
                answers[asked.question.item].append(_answer(asked, found, chosen, right))
        items = [
            ItemResult(item, {name: tuple(each) for name, each in values[item].items()}, tuple(answers[item]))
            for item in values
        ]
        return TaskRun(items, {name: count for name, count in asking.counts.items() if count})

    def _room(self, subject: Subject, question: Question) -> int:
        """Tokens of the longest choice; one more where it begins inside the prompt's last token is one less there."""
        return max(len(subject.tokenizer.encode(text)) + 1 for text in self._choices[question.item].texts)

    def _likelihoods(self, subject: Subject, prompts: Sequence[Asked]) -> list[list[Likelihood]]:
        """Of every prompt each choice's."""
        asked = [(each.prompt, self._choices[each.question.item].texts) for each in prompts]
        return likelihoods(subject, asked)

    def _priors(self, subject: Subject, prompts: Sequence[Asked]) -> dict[tuple[str, ...], list[list[Likelihood]]]:
        """Of every set of examples the likelihoods of the labels after each question without content."""
        sets = {examples_of(each): each for each in prompts}
        labels = next(iter(self._choices.values())).texts
        asked = [
            (self.asked.prompt(subject, each.examples, self._without_content(each.question, text)), labels)
            for each in sets.values()
            for text in self.config.content_free
        ]
        found, count = likelihoods(subject, asked), len(self.config.content_free)
        return {key: found[index * count : (index + 1) * count] for index, key in enumerate(sets)}

    def _without_content(self, question: Question, text: str) -> str:
        return self.asked.template.fill(replace(question.record, fields=dict.fromkeys(question.record.fields, text)))

    def _chosen(
        self, found: Sequence[Likelihood], prior: Sequence[Sequence[Likelihood]] | None, shots: int
    ) -> dict[str, int]:
        """The place of the best choice under every metric."""
        chosen = {}
        for by in self.config.scoring:
            plain = [each.normalized(by) for each in found]
            chosen[metric_name(shots, by, False)] = plain.index(max(plain))
            if prior is not None:
                calibrated = [a - b for a, b in zip(plain, log_prior(prior, by), strict=True)]
                chosen[metric_name(shots, by, True)] = calibrated.index(max(calibrated))
        return chosen

    def _all_choices(self, seed: int) -> dict[str, Choices]:
        """Every item's choices; with distractors, what must not stand in its prompt grows by them."""
        if not self.config.distractors:
            return {each.item: self._written(each) for each in self.asked.questions}
        found, questions = {}, []
        for question in self.asked.questions:
            others = self._others(question, seed)
            place = int(generator_for(seed, "place", self.name, question.item).integers(len(others) + 1))
            texts = [each.answer for each in others]
            texts.insert(place, question.answer)
            found[question.item] = Choices(tuple(texts), place)
            questions.append(replace(question, avoid=question.avoid | {each.key for each in others}))
        self.asked.questions = questions
        return found

    def _others(self, question: Question, seed: int) -> list[Question]:
        """Records whose answers are the wrong choices: neither duplicates of the item, nor answered alike."""
        keys, found = {duplicate_key(question.answer)}, []
        for index in generator_for(seed, "distractors", self.name, question.item).permutation(len(self.asked.pool)):
            other = self.asked.pool[int(index)]
            if other.key != question.key and duplicate_key(other.answer) not in keys:
                keys.add(duplicate_key(other.answer))
                found.append(other)
            if len(found) == self.config.distractors:
                return found
        raise TrineError(f"{self.name}: {question.item} has {len(found)} other answers to choose from, fewer than "
                         f"distractors={self.config.distractors}")  # fmt: skip

    def _written(self, question: Question) -> Choices:
        """The choices that the file names, and which of them the answer is: its text, or a number counted from 0."""
        texts = self._texts(question.record)
        plain, answer = [text.strip() for text in texts], question.answer.strip()
        if len(set(plain)) < 2 or "" in texts:
            raise TrineError(f"{question.item}: {self.name} needs two different choices, none of them empty: {plain}")
        if answer in plain:
            return Choices(texts, plain.index(answer))
        if answer.isdecimal() and int(answer) < len(texts):
            return Choices(texts, int(answer))
        raise TrineError(
            f"{question.item}: {self.name}: the answer {answer!r:.60} is neither one of the choices {plain} nor a place"
        )

    def _texts(self, record: Record) -> tuple[str, ...]:
        if self._templates:
            return tuple(template.fill(record) for template in self._templates)
        listed = record.fields.get(str(self.config.choices_field))
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            raise TrineError(f"{record.place}: {self.name}: field {self.config.choices_field!r} is no list of texts")
        return tuple(listed)


def metric_name(shots: int, by: Normalization, calibrated: bool) -> str:
    """Such as accuracy_per_byte_4_shots_calibrated."""
    return f"accuracy_{by}_{shots}_shots{'_calibrated' * calibrated}"


def likelihoods(subject: Subject, asked: Sequence[tuple[Prompt, Sequence[str]]]) -> list[list[Likelihood]]:
    """Of every (prompt, texts) how likely each of the texts is there, all read in one go."""
    pairs = [subject.continuation_ids(prompt, texts) for prompt, texts in asked]
    log_probs = iter(subject.log_probs([pair for each in pairs for pair in each]))
    return [
        [Likelihood(text, math.fsum(found), len(found)) for text, found in zip(texts, log_probs, strict=False)]
        for _, texts in asked
    ]


def log_prior(prior: Sequence[Sequence[Likelihood]], by: Normalization) -> list[float]:
    """Log of the mean over content-free questions of the labels' probabilities, each summing to one over the labels."""
    rows = []
    for labels in prior:
        values = [each.normalized(by) for each in labels]
        top = max(values)
        total = math.fsum(math.exp(value - top) for value in values)
        rows.append([math.exp(value - top) / total for value in values])
    return [math.log(max(math.fsum(column) / len(rows), 1e-300)) for column in zip(*rows, strict=True)]


def _answer(asked: Asked, found: Sequence[Likelihood], chosen: dict[str, int], right: int) -> dict[str, Any]:
    return {
        "shots": asked.shots,
        "draw": asked.draw,
        "examples": list(examples_of(asked)),
        "choices": [each.text for each in found],
        "log_probs": [each.log_prob for each in found],
        "tokens": [each.tokens for each in found],
        "right": right,
        "chosen": chosen,
    }
