"""`trine evaluate`: every model asked every task, with intervals; the first model is what the others are compared with.

What a model answered is written item by item, `answers/MODEL/TASK.jsonl`, as soon as its task is done, and is what all
figures are made from: a run that was stopped goes on with the next task, and other figures can be made of it later.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trine.catalog.loading import open_hardware, open_model
from trine.config.evaluation import EvaluateConfig
from trine.config.tasks import TaskFile
from trine.data.files import write_examples
from trine.model.transformer import Transformer
from trine.runtime.device import Hardware
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl, sha256_of, write_json, write_jsonl
from trine.runtime.progress import say
from trine.stages.evaluation.compare_policies import compare_policies
from trine.stages.evaluation.in_context import InContext
from trine.stages.evaluation.subject import ModelSubject
from trine.stages.evaluation.summary import Figures, differences, figures
from trine.stages.evaluation.task import ItemResult, Subject, Task, TaskRun
from trine.stages.evaluation.task_files import make_task, read_tasks, task_fingerprint
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.inputs import input_fingerprint, model_fingerprint
from trine.training.run_folder import RunFolder, open_run

ANSWERS, EXAMPLES = "answers", "examples"


def run(config: EvaluateConfig) -> Path:
    """Write figures to done.json, answers to `answers/`; of the task `ppo` also samples.jsonl."""
    hardware = open_hardware(config.hardware)
    files = read_tasks(config.asked_tasks, config.data)
    inputs = _inputs(config, files)
    settings = config.model_dump_json(exclude={"out", "overwrite", "json", "fail_if_worse", "hardware"})
    config = config.with_folder(sha256_of(settings, hardware.precision, *inputs.values()))
    with open_run(config, inputs, hardware=hardware) as folder:
        if not folder.finished:
            results = compare_policies(config, hardware, folder) if config.compares_policies else {}
            folder.finish(results | _ask_all(config, hardware, folder, files))
    return folder.path


def _inputs(config: EvaluateConfig, files: Sequence[TaskFile]) -> dict[str, str]:
    found = {}
    if config.compares_policies:
        roles = ("before", "after", "base", "reward", "held_out_reward")
        named = {role: getattr(config, role) for role in roles}
        found = {role: input_fingerprint(role, name) for role, name in named.items() if name is not None}
        found["prompts"] = input_fingerprint("prompts", Path(str(config.prompts)))
    if config.models:
        found["models"] = sha256_of(*map(model_fingerprint, config.models))
    if files:
        found["tasks"] = sha256_of(*map(task_fingerprint, files))
    return found


def _ask_all(
    config: EvaluateConfig, hardware: Hardware, folder: RunFolder, files: Sequence[TaskFile]
) -> dict[str, Any]:
    """Every task's figures and differences."""
    if not files:
        return {}
    tasks = [make_task(file, config.seed) for file in files]
    if config.write_examples:
        _write_examples(folder.path, tasks)
    if not config.models:
        return {}
    runs: dict[str, dict[str, TaskRun]] = {task.name: {} for task in tasks}
    for number, name in enumerate(config.models):
        places = {task.name: _place(folder.path, number, name, task.name) for task in tasks}
        missing = [task for task in tasks if not places[task.name].exists()]
        subject = _open(name, config, hardware) if missing else None
        for task in missing:
            assert subject is not None
            say(f"evaluate: {name}: {task.name}")
            _write(places[task.name], task.evaluate(subject))
        for task in tasks:
            runs[task.name][name] = _read(places[task.name])
    about = {file.name: file.config for file in files}
    return {
        "models": list(config.models),
        "asked": [task.name for task in tasks],
        "tasks": {
            task.name: {"kind": about[task.name].kind, "about": about[task.name].about}
            | task_results(task, runs[task.name])
            for task in tasks
        },
    }


def task_results(task: Task, runs: Mapping[str, TaskRun]) -> dict[str, Any]:
    """Figures of every model, and the differences of all but the first to the first, on the items that both have."""
    first = next(iter(runs))
    return {
        "metrics": [asdict(metric) for metric in task.metrics],
        "models": {
            name: {"figures": figures(task.metrics, run), "items": len(run.items), "counts": dict(run.counts)}
            for name, run in runs.items()
        },
        "differences": {
            name: differences(task.metrics, runs[first].items, run.items) for name, run in runs.items() if name != first
        },
        "compared_with": first,
    }


def evaluate_tasks(
    model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], *, asks_in_chat: bool = False
) -> dict[str, Figures]:
    """Every figure of the tasks for a model in memory, by "task/metric"; for use while a model is trained.

    evaluate_tasks(model, tokenizer, [task])["sentiment/accuracy_sum_0_shots"]["mean"]

    The model's weights are read as they are now; it is left in the mode and with the gradients that it has.
    """
    subject: Subject = ModelSubject("model", model, tokenizer, asks_in_chat=asks_in_chat)
    return {
        f"{task.name}/{name}": figure
        for task in tasks
        for name, figure in figures(task.metrics, task.evaluate(subject)).items()
    }


def _open(name: str, config: EvaluateConfig, hardware: Hardware) -> Subject:
    model, tokenizer = open_model(name, hardware)
    return ModelSubject(name, model, tokenizer, asks_in_chat=name in config.chat)


def _write_examples(folder: Path, tasks: Sequence[Task]) -> None:
    """What is left of each task's pool, to fine-tune on."""
    for task in tasks:
        asked = getattr(task, "asked", None)
        if not isinstance(asked, InContext):
            raise TrineError(f"{task.name}: a task of this kind has no questions with answers to fine-tune on")
        examples = asked.examples_to_train_on()
        if not examples:
            raise TrineError(f"{task.name}: nothing is left to fine-tune on: all is asked (max_items asks less)")
        write_examples(folder / EXAMPLES / f"{task.name}.jsonl", examples)
        say(f"evaluate: {len(examples)} examples to fine-tune on in {folder / EXAMPLES}/{task.name}.jsonl")


def _place(folder: Path, number: int, model: str, task: str) -> Path:
    """Models are numbered: two of them may end in the same name."""
    plain = re.sub(r"[^\w.-]+", "-", model).strip("-.")[-60:]
    return folder / ANSWERS / f"{number + 1}-{plain}" / f"{task}.jsonl"


def _write(place: Path, run: TaskRun) -> None:
    """The counts first: the items are what says that a task is done."""
    write_json(place.with_suffix(".counts.json"), dict(run.counts))
    write_jsonl(place, [asdict(item) for item in run.items])


def _read(place: Path) -> TaskRun:
    items = [
        ItemResult(
            row["item"],
            {name: tuple(values) for name, values in row["values"].items()},
            tuple(row["answers"]),
            row["weights"],
        )
        for row in read_jsonl(place)
    ]
    return TaskRun(items, read_json(place.with_suffix(".counts.json")))
