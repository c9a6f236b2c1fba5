"""`trine score`: texts in, a line of JSON out for each, with its `score`.

A record's own fields are written again beside the score, so that both can be compared; its own `score`, if it has one,
as `score_given`. Texts are read and scored a batch at a time, so that a file of any length takes the same memory.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from trine.catalog.loading import open_hardware
from trine.catalog.rewards import open_reward
from trine.cli.standard_input import input_stream
from trine.config.use import ScoreConfig
from trine.data.answers import Scorable, answers_of_stream, read_answers, text_to_score
from trine.records import Form
from trine.rewards.base import FormReward, Reward, Scored, scored
from trine.rewards.batches import COMPARED, max_difference
from trine.rewards.word_reward import WordReward
from trine.runtime.errors import TrineError
from trine.runtime.progress import say

STANDARD_INPUT = "standard input"
DIGITS = 6
"""of what a word adds"""


def write(config: ScoreConfig) -> None:
    """Score what `config` names, on standard output."""
    hardware = open_hardware(config.hardware)
    reward = open_reward(config.model, hardware, config.closed)
    if config.explain and not isinstance(reward, WordReward):
        raise TrineError(f"explain={config.explain} is of rewards by words (kind: words); {config.model} is none")
    items = _inputs(config, config.form or form_read(reward))
    compared = hardware.precision == "fp32"
    while batch := list(islice(items, config.batch_size)):
        found = _scored(reward, batch)
        for row in _rows(reward, batch, found, config.explain):
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        if not compared:
            _tell_difference(reward, batch, found.scores)
            compared = True


def form_read(reward: Reward) -> Form:
    """What a reward reads, where it says so."""
    return reward.reads if isinstance(reward, FormReward) else "chat"


def _inputs(config: ScoreConfig, form: Form) -> Iterator[Scorable]:
    if config.text == "-" or config.file == Path("-"):
        return answers_of_stream(input_stream(), STANDARD_INPUT, form)
    if config.file is not None:
        return read_answers(config.file, form)
    return iter([text_to_score(str(config.text), "the text")])


def _scored(reward: Reward, batch: Sequence[Scorable]) -> Scored:
    """Scores of a batch; what goes wrong is told with the place of the first input that it goes wrong with."""
    try:
        return scored(reward, [item.answer for item in batch])
    except TrineError:
        for item in batch:
            try:
                reward.score([item.answer])
            except TrineError as error:
                raise TrineError(f"{item.place}: {error}") from error
        raise


def _rows(reward: Reward, batch: Sequence[Scorable], found: Scored, explain: int) -> Iterator[dict[str, Any]]:
    for place, item in enumerate(batch):
        row = dict(item.record)
        if "score" in row:
            row["score_given"] = row.pop("score")
        row["score"] = _number(found.scores, place)
        if found.parts:
            row["parts"] = {name: _number(values, place) for name, values in found.parts.items()}
        if explain and isinstance(reward, WordReward):
            row["words"] = _rounded(reward.explain(item.answer, explain))
        yield row


def _rounded(words: Iterable[tuple[str, float]]) -> list[list[Any]]:
    return [[name, round(weight, DIGITS)] for name, weight in words]


def _number(values: Tensor, place: int) -> float | None:
    """None, JSON's null, where a reward does not apply."""
    value = float(values[place])
    return None if value != value else value  # noqa: PLR0124  (NaN alone is unlike itself)


def _tell_difference(reward: Reward, batch: Sequence[Scorable], scores: Tensor) -> None:
    """In bf16 a score may depend on the batch; say by how much it did."""
    few = batch[:COMPARED]
    alone = [float(reward.score([item.answer])) for item in few]
    difference = max_difference(scores.new_tensor(alone), scores[: len(few)])
    if len(batch) > 1:
        say(f"score: in bf16 the scores of {len(few)} texts alone differ by at most {difference:.2g}; fp32: not at all")
