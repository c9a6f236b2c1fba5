"""Texts or prompts divided into parts with no group in common: one to learn a reward from, one to measure on ...

A group's part is decided by a hash of its name and of the seed, whatever else is there, so that more records move none
from one part to another. The hash is not that which holds out a part of a corpus: a part may be divided by that again.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from trine.catalog.exchanges import read_texts, records_of
from trine.config.split import SplitConfig
from trine.data.exchanges import EXCHANGE_FIELDS, exchanges_of
from trine.records import Example
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.training.stage_run import StageRun, stage_run

FOLDER = "parts"


@stage_run("records")
def run(config: SplitConfig, stage: StageRun) -> dict[str, Any]:
    """Write parts/NAME.jsonl: {text, group}, or {prompt, response, group}, and the other fields of each record."""
    examples = _chosen(_read(config), config)
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in config.parts}
    groups = {name: set[str]() for name in config.parts}
    for example in examples:
        group = group_of(example, config.by)
        part = part_of(group, config.parts, config.seed)
        if part is not None:
            parts[part].append(_row(example, group))
            groups[part].add(group)
    empty = next((name for name, rows in parts.items() if not rows and config.parts[name] > 0), None)
    if empty is not None:
        raise TrineError(
            f"{config.records}: none of {len(examples)} records falls into the part {empty!r} of "
            f"{config.parts[empty]:g}: give more records, or larger parts"
        )
    folder = stage.path / FOLDER
    folder.mkdir(exist_ok=True)
    for name, rows in parts.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    say(f"split: {', '.join(f'{len(rows)} {name}' for name, rows in parts.items())} of {len(examples)} records")
    return {
        "records": len(examples),
        "parts": {name: {"records": len(rows), "groups": len(groups[name])} for name, rows in parts.items()},
        "labels": {name: dict(Counter(str(row.get("label", "")) for row in rows)) for name, rows in parts.items()},
    }


def _read(config: SplitConfig) -> list[Example]:
    """The records; those without a group of their own have an empty one."""
    if config.form == "text":
        return [replace(each, group="") for each in read_texts(config.records) if each.response.strip()]
    records = list(records_of(config.records, EXCHANGE_FIELDS))
    found = exchanges_of(records, answered=False)
    return [
        each if "group" in record else replace(each, group="") for (_, record), each in zip(records, found, strict=True)
    ]


def _row(example: Example, group: str) -> dict[str, Any]:
    """A record that the stages read which read the one it is of."""
    if not example.prompt:
        return {**example.columns, "text": example.response, "group": group}
    answer = {"response": example.response} if example.response else {}
    return {**example.columns, "prompt": [asdict(message) for message in example.prompt], **answer, "group": group}


def group_of(example: Example, by: str | None) -> str:
    """The name of a record's group: its field `by`; or the text itself, of a prompt its own group, or the prompt."""
    value = example.columns.get(by) if by else example.group or None
    if value is None:
        asked = "\0".join(message.content for message in example.prompt) or example.response
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def part_of(group: str, parts: Mapping[str, float], seed: int) -> str | None:
    """Which part a group is in; None: in what the shares leave over.

    >>> part_of("The Third Man", {"train": 1.0, "held_out": 0.0}, seed=0)
    'train'
    """
    digest = hashlib.sha256(f"split/{seed}/{group}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    ends = itertools.accumulate(parts.values())
    return next((name for name, end in zip(parts, ends, strict=True) if place < end), None)


def _chosen(examples: Sequence[Example], config: SplitConfig) -> Sequence[Example]:
    """At most `max_records` of them, in their order."""
    if not config.max_records or len(examples) <= config.max_records:
        return examples
    order = generator_for(config.seed, "split").permutation(len(examples))[: config.max_records]
    return [examples[place] for place in sorted(order.tolist())]
