"""Prompts of reasoning-gym's tasks, for `--reward reasoning-gym` to score."""

from itertools import islice
from pathlib import Path
from typing import Any

from trine.config.reasoning import ReasoningConfig
from trine.data.reasoning import reasoning_records
from trine.runtime.files import write_jsonl
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, generator_for
from trine.training.run_folder import open_run


def run(config: ReasoningConfig) -> Path:
    """Write train.jsonl and held_out.jsonl of the run folder; no prompt is in both."""
    with open_run(config, {}) as folder:
        if folder.finished:
            return folder.path
        train, held_out = _parts(config)
        write_jsonl(folder.path / "train.jsonl", train)
        write_jsonl(folder.path / "held_out.jsonl", held_out)
        say(f"reasoning: {len(train)} prompts to train on, {len(held_out)} held out")
        folder.finish({"train": len(train), "held_out": len(held_out), "tasks": list(config.tasks)})
        return folder.path


def _parts(config: ReasoningConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records to train on, tasks mixed, and those held out, whose prompts are not among the others."""
    train: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for place, task in enumerate(config.tasks):
        count, apart = (_share(each, place, config) for each in (config.count, config.held_out_count))
        seed = derive_seed(config.seed, "reasoning", task) % 2**31
        # A task may have few questions: where a hundred times as many as are wanted do not suffice, there are no more.
        size = count + 100 * apart
        records = reasoning_records(task, config.options, seed=seed, size=size, instruction=config.instruction)
        train += islice(records, count)
        known = {record["prompt"] for record in train}
        held_out += islice((record for record in records if record["prompt"] not in known), apart)
    order = generator_for(config.seed, "reasoning order").permutation(len(train))
    return [train[int(index)] for index in order], held_out


def _share(total: int, place: int, config: ReasoningConfig) -> int:
    tasks = len(config.tasks)
    return total // tasks + (place < total % tasks)
