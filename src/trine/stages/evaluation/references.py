"""Do a task's tests accept its right answers, and what is wrong with them? Checks a benchmark and the sandbox at once.

python -m trine.stages.evaluation.references humaneval mbpp --data mbpp=mbpp_sanitized.jsonl.gz
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from trine.runtime.seeds import generator_for
from trine.sandbox.running import run_tests_batch
from trine.stages.evaluation.mutants import with_body_passed, with_operator_flipped
from trine.stages.evaluation.program import Problem, ProgramTask
from trine.stages.evaluation.task_files import make_task, read_tasks


@dataclass(frozen=True)
class Check:
    """Of one kind of programs: how many there are, and the problems whose tests they pass."""

    kind: str
    count: int
    passed: tuple[str, ...]


def check_references(task: ProgramTask, seed: int = 0) -> list[Check]:
    """The right answers, the same with one operator changed (chosen by the seed), and with bodies that do nothing."""
    problems = list(task.problems())
    kinds: dict[str, list[tuple[Problem, str]]] = {
        "right": [(problem, problem.reference) for problem in problems],
        "one operator changed": [(each, code) for each in problems for code in _flipped(each, seed)],
        "body pass": [(problem, with_body_passed(problem.reference)) for problem in problems],
    }
    return [_check(task, kind, programs) for kind, programs in kinds.items()]


def _flipped(problem: Problem, seed: int) -> list[str]:
    """One mutant; none of a program without operators."""
    mutants = list(with_operator_flipped(problem.reference))
    if not mutants:
        return []
    return [mutants[int(generator_for(seed, "mutant", problem.question.item).integers(len(mutants)))]]


def _check(task: ProgramTask, kind: str, programs: Sequence[tuple[Problem, str]]) -> Check:
    pairs = [(code, problem.tests) for problem, code in programs]
    verdicts = run_tests_batch(pairs, task.config.limits, workers=task.config.workers)
    passed = [problem.question.item for (problem, _), verdict in zip(programs, verdicts, strict=True) if verdict.passed]
    return Check(kind, len(programs), tuple(passed))


def main(arguments: Sequence[str]) -> None:
    """Print a line for every task and kind of program."""
    split = arguments.index("--data") if "--data" in arguments else len(arguments)
    data = dict(each.partition("=")[::2] for each in arguments[split + 1 :])
    for file in read_tasks(arguments[:split], data):
        task = make_task(file, 0)
        assert isinstance(task, ProgramTask), f"{file.name} is no task of programs"
        for check in check_references(task):
            few = f": {', '.join(check.passed)}" if len(check.passed) <= 20 and check.kind != "right" else ""
            print(f"{file.name}, {check.kind}: {len(check.passed)} of {check.count} pass{few}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
