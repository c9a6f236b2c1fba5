"""How often a head is right on held-out examples, with what it is printed beside: baselines, another run.

Every share has Wilson's 95 % interval; two classifiers are told apart by the exact test of McNemar on the same
examples, since two intervals that overlap say nothing of models that were asked the same questions.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trine.algorithms.statistics import mcnemar_p_value, wilson_interval
from trine.records import TaskExample
from trine.rewards.words import WordModel
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl, write_jsonl

PREDICTIONS = "predictions.jsonl"
THIS, FREQUENT, WORDS = "this model", "the most frequent label", "bag of bigrams"


def accuracy(right: Sequence[bool]) -> dict[str, Any]:
    """Share, interval and number, as `done.json` has them."""
    interval = wilson_interval(sum(right), len(right))
    return {"accuracy": sum(right) / len(right), "low": interval.low, "high": interval.high, "n": len(right)}


def against(this: Sequence[bool], other: Sequence[bool]) -> dict[str, Any]:
    """`accuracy` of another classifier, and exact McNemar against this one on the same examples."""
    only_this = sum(a and not b for a, b in zip(this, other, strict=True))
    only_other = sum(b and not a for a, b in zip(this, other, strict=True))
    p_value = mcnemar_p_value(only_this, only_other)
    return accuracy(other) | {"only_this_right": only_this, "only_other_right": only_other, "p_value": p_value}


def write_predictions(
    folder: Path, examples: Sequence[TaskExample], labels: Sequence[str], probabilities: Sequence[Sequence[float]]
) -> list[bool]:
    """Write a line for each held-out example; which of them are right."""
    chosen = [max(range(len(row)), key=row.__getitem__) for row in probabilities]
    named = [str(place) if len(labels) == 1 else labels[place] for place in chosen]
    write_jsonl(
        folder / PREDICTIONS,
        [
            {"name": example.name, "label": example.label, "predicted": name, "probabilities": row}
            for example, name, row in zip(examples, named, probabilities, strict=True)
        ],
    )
    return [example.label == name for example, name in zip(examples, named, strict=True)]


def baselines(train: Sequence[TaskExample], held_out: Sequence[TaskExample], task: str) -> dict[str, list[bool]]:
    """What is right without a language model: always the most frequent label; of texts, by the words in them."""
    most = Counter(example.label for example in train).most_common(1)[0][0]
    found = {FREQUENT: [example.label == most for example in held_out]}
    names = sorted({example.label for example in train})
    if task != "classify" or len(names) < 2:
        return found
    words = WordModel.fit(_texts(train), [names.index(example.label) for example in train])
    predicted = words.labels(_texts(held_out))
    return found | {WORDS: [names[place] == e.label for place, e in zip(predicted, held_out, strict=True)]}


def _texts(examples: Sequence[TaskExample]) -> list[str]:
    return [example.readings[0][0] for example in examples]


def right_of_run(folder: Path, examples: Sequence[TaskExample]) -> tuple[str, list[bool]]:
    """(what to call it, which of the same held-out examples are right) of a finished run of the same task."""
    name, rows = rows_of_run(folder, examples)
    return name, [row["label"] == row["predicted"] for row in rows]


def rows_of_run(folder: Path, examples: Sequence[TaskExample]) -> tuple[str, list[dict[str, Any]]]:
    """(what to call it, its line for each of the same held-out examples) of a finished run of the same task."""
    if not (folder / PREDICTIONS).is_file() or not (folder / "done.json").is_file():
        raise TrineError(
            f"compare_with={folder} is no finished run of `trine finetune --task` with held-out examples; "
            f"{PREDICTIONS} is missing"
        )
    rows = list(read_jsonl(folder / PREDICTIONS))
    theirs, ours = ([(str(name), str(label)) for name, label in each] for each in (_keys(rows), _examples(examples)))
    if theirs != ours:
        raise TrineError(
            f"compare_with={folder} was evaluated on {len(theirs)} other held-out examples than the {len(ours)} of "
            "this run; give both the same examples, held_out, held_out_share and held_out_by"
        )
    weight = read_json(folder / "done.json").get("auxiliary_weight")
    return f"{folder.name} (lambda {weight:g})", rows


def _keys(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(row.get("name"), row.get("label")) for row in rows]


def _examples(examples: Sequence[TaskExample]) -> list[tuple[Any, Any]]:
    return [(example.name, example.label) for example in examples]


def words_of(figures: dict[str, dict[str, Any]]) -> str:
    """The table that is printed: a line for each classifier."""
    width = max(map(len, figures))
    lines = [f"accuracy on {figures[THIS]['n']:,} held-out examples, 95% interval; p: exact McNemar against this model"]
    for name, each in figures.items():
        line = f"  {name:<{width}}  {each['accuracy']:.4f}  [{each['low']:.4f}, {each['high']:.4f}]"
        if "p_value" in each:
            line += f"  p = {each['p_value']:.2g} ({each['only_this_right']} : {each['only_other_right']})"
        lines.append(line)
    return "\n".join(lines) + "\n"
