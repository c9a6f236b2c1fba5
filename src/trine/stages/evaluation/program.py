"""Programs that the model writes, run against tests: pass@k, unbiased (Chen et al. 2021, equation 1).

HumanEval's and MBPP's forms are both templates over their records (`tasks/humaneval.yaml`, `tasks/mbpp.yaml`). Where
programs are run, and why they cannot cheat, is `trine.sandbox`.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trine.algorithms.statistics import pass_at_k
from trine.config.programs import ProgramConfig
from trine.engine.sampling import Sampling
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed
from trine.sandbox.running import Verdict, run_tests_batch
from trine.stages.evaluation.in_context import Asked, Asking, InContext, Question, examples_of
from trine.stages.evaluation.records import Template
from trine.stages.evaluation.task import ItemResult, Metric, Subject, TaskRun

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """A record with what it is tested by, and the file of the right answer."""

    question: Question
    tests: str
    reference: str


def make(name: str, config: ProgramConfig, seed: int) -> "ProgramTask":
    """The task of a file of kind `program`."""
    return ProgramTask(name, config, seed)


class ProgramTask:
    """pass@k for every number of shots and every k."""

    def __init__(self, name: str, config: ProgramConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.asked = InContext(name, config, seed)
        self._code = Template(config.code, f"{name}: code")
        self._tests = Template(config.tests, f"{name}: tests")
        self._setup = Template(config.setup, f"{name}: setup")
        self._entry = None if config.entry is None else Template(config.entry, f"{name}: entry")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(
            Metric(
                metric_name(k, shots), "share" if k == 1 and not shots else "mean", over="draws" if shots else "samples"
            )
            for shots in self.config.shots
            for k in self.config.k
        )

    def evaluate(self, subject: Subject) -> TaskRun:
        asking = Asking(self.asked, subject, lambda question: self.config.max_new_tokens)
        values: dict[str, dict[str, tuple[float, ...]]] = {each.item: {} for each in asking.questions}
        answers: dict[str, list[dict[str, Any]]] = {each.item: [] for each in asking.questions}
        for shots in self.config.shots:
            prompts = list(asking.prompts(shots))
            programs = self._written(subject, prompts)
            verdicts = self.run([(asked.question, text) for asked, text in programs])
            size = self.config.samples
            for index, asked in enumerate(prompts):
                of_prompt = verdicts[index * size : (index + 1) * size]
                for k in self.config.k:
                    name = metric_name(k, shots)
                    known = values[asked.question.item].get(name, ())
                    values[asked.question.item][name] = known + self._values(of_prompt, k, asked)
                texts = [text for _, text in programs[index * size : (index + 1) * size]]
                answers[asked.question.item] += _answers(asked, texts, of_prompt)
        items = [ItemResult(item, values[item], tuple(answers[item])) for item in values]
        return TaskRun(items, {name: count for name, count in asking.counts.items() if count})

    def _values(self, verdicts: Sequence[Verdict], k: int, asked: Asked) -> tuple[float, ...]:
        """A value for each sample where that says more, else the estimate of all of them."""
        if k == 1 and not asked.shots:
            return tuple(float(verdict.passed) for verdict in verdicts)
        return (pass_at_k(len(verdicts), sum(verdict.passed for verdict in verdicts), k),)

    def _written(self, subject: Subject, prompts: Sequence[Asked]) -> list[tuple[Asked, str]]:
        config, answering = self.config, subject.asks_in_chat
        seed = derive_seed(self.seed, "task", self.name)
        sampling = Sampling(config.max_new_tokens, config.temperature, seed, stop_strings=config.stop)
        ids = [subject.prompt_ids(each.prompt) for each in prompts]
        rollouts = subject.generate(ids, sampling, config.samples, answering=answering)
        texts = [subject.text(rollout, config.stop, answering=answering) for rollout in rollouts]
        return [(prompts[index // config.samples], text) for index, text in enumerate(texts)]

    def run(self, answers: Sequence[tuple[Question, str]]) -> list[Verdict]:
        """Whether each answer to a question passes its tests."""
        pairs = [(self.file(question, text), self.problem(question).tests) for question, text in answers]
        return run_tests_batch(pairs, self.config.limits, workers=self.config.workers)

    def problems(self) -> Iterator[Problem]:
        """Every problem that is asked, to check them by their right answers."""
        return (self.problem(question) for question in self.asked.questions)

    def file(self, question: Question, answer: str) -> str:
        """The file that is run for an answer."""
        return self._code.fill(question.record, program=program_in(answer))

    def problem(self, question: Question) -> Problem:
        """The tests of a question: the setup, what is taken from the code, and the tests themselves."""
        tests, reference = self._tests.fill(question.record), self.file(question, question.answer)
        if self._entry is None:
            names = ", ".join(_defined_and_named(reference, tests, question.item))
        else:
            names = self._entry.fill(question.record)
        imported = f"from solution import {names}\n" if names else ""
        return Problem(question, f"{self._setup.fill(question.record)}\n{imported}{tests}", reference)


def metric_name(k: int, shots: int) -> str:
    return f"pass@{k}_{shots}_shots"


def program_in(answer: str) -> str:
    """What stands in the first fence of code of an answer, or else the answer itself.

    program_in("Here it is:\\n```python\\nx = 1\\n```")  # "x = 1"
    """
    fenced = _FENCE.search(answer)
    return answer if fenced is None else fenced[1]


def _defined_and_named(reference: str, tests: str, place: str) -> list[str]:
    """The functions and classes of the right answer that the tests name."""
    try:
        named = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
        body = ast.parse(reference).body
    except SyntaxError as error:
        raise TrineError(f"{place}: the right answer or its tests are no Python: {error}") from None
    defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in dict.fromkeys(defined) if name in named]


def _answers(asked: Asked, texts: Sequence[str], verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    for sample, (text, verdict) in enumerate(zip(texts, verdicts, strict=True)):
        yield {
            "shots": asked.shots, "draw": asked.draw, "sample": sample, "examples": list(examples_of(asked)),
            "question": asked.question.text, "text": text, "passed": verdict.passed, "outcome": verdict.outcome,
            "message": verdict.message,
        }  # fmt: skip
