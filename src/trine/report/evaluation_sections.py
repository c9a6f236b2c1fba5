"""What models made of the tasks of `trine evaluate`: figures with their intervals, and differences to the first model.

A difference is printed as one only where its interval leaves out 0; else both are tied. The same tables serve the
command, the report's page and its text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trine.config.evaluation import EvaluateConfig
from trine.config.stage import Printed
from trine.report.plots import Band, Colour, Line, line_plot
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Answer, Plot, Sample, Section, titled
from trine.report.tables import ABSENT, Table, number, percent, printable, signed, whole
from trine.runtime.files import read_json, read_jsonl

Results = dict[str, Any]
SHOWN = 8
TEXT_WIDTH = 160
WORDS = (
    "Behind each figure is its 95% interval: Wilson's for shares, Student's t for other means, over the items; several "
    "samples or draws of an item count as one. ± is the standard deviation over draws of examples. A difference is to "
    "the first model on the same items (exact McNemar test or paired error); tied: its interval holds 0."
)


def printed(config: EvaluateConfig, folder: Path) -> Printed:
    """What `trine evaluate` writes at its end, and 1 where a model is worse than the first and that was asked for."""
    results = read_json(folder / "done.json")
    text = json.dumps(results, indent=2, ensure_ascii=False) if config.json else results_text(results, folder)
    return Printed(text.rstrip("\n") + "\n", int(config.fail_if_worse and bool(worse_figures(results))))


def results_text(results: Results, folder: Path) -> str:
    """All tables, and for tasks without figures what was written."""
    parts = []
    for name, task in asked_tasks(results):
        title = f"{name}: {task['about']}" if task.get("about") else name
        parts += [title, "", *(table.text(TEXT_WIDTH) for table in task_tables(name, task, results))]
        if not task["metrics"]:
            rows = shown_rows(folder, name, results)
            parts += [
                f"{model}: {printable(row['question'])}\n    {printable(row['text'].strip())}" for model, row in rows
            ]
        parts += [*(f"{model}: {whole(count)} {what}" for model, what, count in counts_of(task, results)), ""]
    return "\n".join([*parts, *_policies_text(results)])


def asked_tasks(results: Results) -> list[tuple[str, Results]]:
    """Tasks in the order in which they were asked: JSON keeps none."""
    return [(name, results["tasks"][name]) for name in results.get("asked", [])]


def labels(models: Sequence[str]) -> dict[str, str]:
    """For every model the end of its name that tells it from the others."""
    parts = {name: Path(name).parts for name in models}
    ends = {name: ["/".join(part[-count:]) for count in range(1, len(part) + 1)] for name, part in parts.items()}
    return {
        name: next((end for end in found if sum(end in ends[other] for other in models) == 1), name)
        for name, found in ends.items()
    }


def _policies_text(results: Results) -> list[str]:
    """The task ppo in two lines; the report has the rest."""
    if "before" not in results:
        return []
    means = ((name, *(results[side][name]["mean"] for side in ("before", "after"))) for name in _REWARDS)
    return [f"{_REWARDS[name]}: mean {number(a)} before, {number(b)} after PPO" for name, a, b in means]


_REWARDS = {"reward": "reward", "held_out_reward": "held-out reward model"}


def worse_figures(results: Results) -> list[tuple[str, str, str]]:
    """(task, model, metric) of what is worse than the first model's by an interval that leaves out 0."""
    return [
        (name, model, metric["name"])
        for name, task in asked_tasks(results)
        for metric in task["metrics"]
        for model, differences in task["differences"].items()
        if _is_worse(metric, differences[metric["name"]])
    ]


def _is_worse(metric: Results, difference: Results) -> bool:
    return not difference["tied"] and (difference["mean"] < 0) == (metric["better"] == "higher")


def tasks_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Every task's figures."""
    tasks = asked_tasks(run.results)
    tables = [table for name, task in tasks for table in task_tables(name, task, run.results)]
    plots = [plot for name, task in tasks for plot in shots_plots(name, task, run.results)]
    return Section(titled("Tasks", run, recipe), WORDS, tables, plots)


def shown_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """What the models wrote, for the tasks whose answers are only to be read."""
    samples: dict[str, Sample] = {}
    for name, task in asked_tasks(run.results):
        for model, row in shown_rows(run.folder, name, run.results) if not task["metrics"] else ():
            sample = samples.setdefault(row["question"], Sample(row["question"], []))
            sample.answers.append(Answer("plain", model, row["text"]))
    words = "Answers to read, with nothing chosen by how it looks; no figure is made of them."
    return Section(titled("Answers of tasks", run, recipe), words, samples=list(samples.values()))


def task_tables(name: str, task: Results, results: Results) -> list[Table]:
    """A row per figure and model; of the columns those that have something in them."""
    if not task["metrics"]:
        return []
    named = labels(results["models"])
    columns = ["figure", "model", "value", "95% interval", "± draws", f"difference to {named[task['compared_with']]}"]
    rows = [
        [metric["name"], label, *_cells(metric, task["models"][model]["figures"][metric["name"]]),
         _difference(task, model, metric)]
        for metric in task["metrics"]
        for model, label in named.items()
    ]  # fmt: skip
    used = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    items = " and ".join(dict.fromkeys(whole(found["items"]) for found in task["models"].values()))
    counts = "; ".join(f"{model}: {whole(count)} {what}" for model, what, count in counts_of(task, results))
    caption = f"{task.get('about', '')} {items} items. {counts}".strip()
    cells = [tuple(row[place] for place in used) for row in rows]
    return [Table(tuple(columns[place] for place in used), cells, caption, title=name, open=True)]


def counts_of(task: Results, results: Results) -> list[tuple[str, str, int]]:
    """(model, what, how many) was left out or dropped."""
    return [
        (label, what, count)
        for model, label in labels(results["models"]).items()
        for what, count in task["models"][model]["counts"].items()
    ]


def _cells(metric: Results, figure: Results) -> tuple[str, str, str]:
    interval = figure["interval"]
    between = f"{_value(metric, interval[0])} to {_value(metric, interval[1])}" if interval else ABSENT
    deviation = figure.get("deviation")
    return _value(metric, figure["mean"]), between, _value(metric, deviation) if deviation is not None else ""


def _value(metric: Results, value: float) -> str:
    return percent(value) if metric["kind"] == "share" else number(value)


def _difference(task: Results, model: str, metric: Results) -> str:
    """Such as +3.1 (0.2 to 6.0), or tied with the interval that holds 0."""
    difference = task["differences"].get(model, {}).get(metric["name"])
    if difference is None:
        return ""
    if difference["interval"] is None:
        return "tied (one item)"
    factor, digits = (100, 1) if metric["kind"] == "share" else (1, 3)
    low, high, mean = (signed(factor * each, digits) for each in (*difference["interval"], difference["mean"]))
    return f"{'tied' if difference['tied'] else mean} ({low} to {high})"


def shown_rows(folder: Path, task: str, results: Results) -> list[tuple[str, Results]]:
    """(model, answer) of the first items, of every model in turn."""
    return [
        (label, answer)
        for number, label in enumerate(labels(results["models"]).values(), 1)
        for path in (folder / "answers").glob(f"{number}-*/{task}.jsonl")
        for row in read_jsonl(path)[:SHOWN]
        for answer in row["answers"]
    ]


_SHOTS = re.compile(r"(\w+)_(\d+)_shots(_calibrated)?")
_COLOURS: tuple[Colour, ...] = ("accent", "after", "person", "before", "ink")


def shots_plots(name: str, task: Results, results: Results) -> list[Plot]:
    """Accuracy over the number of examples, as GPT-3's figure has it: a line for each model, the draws' deviation."""
    families: dict[str, list[tuple[int, str]]] = {}
    for metric in task["metrics"]:
        found = _SHOTS.fullmatch(metric["name"])
        if found and metric["kind"] == "share":
            families.setdefault(found[1] + (found[3] or ""), []).append((int(found[2]), metric["name"]))
    named = labels(results["models"])
    return [
        _shots_plot(f"{name}: {family}", task, sorted(each), named)
        for family, each in families.items()
        if len(each) > 1
    ]


def _shots_plot(title: str, task: Results, metrics: Sequence[tuple[int, str]], named: Mapping[str, str]) -> Plot:
    lines, bands, shots = [], [], [float(number) for number, _ in metrics]
    for place, (model, label) in enumerate(named.items()):
        figures = [task["models"][model]["figures"][name] for _, name in metrics]
        means = [100 * each["mean"] for each in figures]
        spread = [100 * each.get("deviation", 0.0) for each in figures]
        colour = _COLOURS[place % len(_COLOURS)]
        lines.append(Line(shots, means, label, colour))
        low, high = ([mean + sign * each for mean, each in zip(means, spread, strict=True)] for sign in (-1, 1))
        bands.append(Band(shots, low, high, colour))
    svg = line_plot(lines, "examples in the prompt", "right, %", title, counted=True, bands=bands)
    return Plot(svg, f"{title}, over the number of examples; the area is the standard deviation over draws of them.")
