"""The records that a reward model is trained and evaluated on, from all the files that its config names."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trine.catalog.locating import is_hub_data_set
from trine.config.preferences import SOURCES, RewardConfig
from trine.data.data_sets import data_set_records
from trine.data.files import read_preferences
from trine.data.judgement_texts import Reading
from trine.data.judgements import KINDS, common_form, counted, divided, judgement_records, judgements_of
from trine.records import Answer, Form, Judgement, JudgementKind, PreferencePair
from trine.runtime.errors import TrineError

KIND_OF: dict[str, tuple[JudgementKind, ...]] = {
    "labels": ("label",), "scores": ("score",), "pairs": ("pair",), "rankings": ("ranking",), "judgements": KINDS,
}  # fmt: skip


@dataclass(frozen=True)
class RewardRecords:
    """What to train on and what to evaluate on, all of one form. `alone`: how many of the first were given by
    `preferences`, whose pairs are batch elements of their own, whatever their prompts."""

    train: list[Judgement]
    held_out: list[Judgement]
    form: Form
    alone: int = 0


def read_reward_records(config: RewardConfig) -> RewardRecords:
    """Raises `TrineError` naming the first record that cannot be read, or where there is nothing to train on."""
    pairs, held_out_pairs = _read_preferences(config)
    train_files = {name: _records(getattr(config, name), config, config.dataset.split) for name in KIND_OF}
    held_out_files = _records(config.held_out, config, config.dataset.held_out_split)
    everything = [record for records in (*train_files.values(), held_out_files) for record in records]
    form = config.form or ("chat" if pairs else common_form(everything, config.fields))
    reading = Reading(form, config.fields, config.positive, config.held_out_by if not config.held_out else None)
    train = [each for name, records in train_files.items() for each in judgements_of(records, KIND_OF[name], reading)]
    held_out = _held_out(held_out_files, counted([*pairs, *train]), reading)
    if config.held_out_share:
        train, held_out = divided(train, config.held_out_share)
    if not pairs + train:
        raise TrineError(f"{_places(config)} holds no records to train on")
    _check_scores(train)
    return RewardRecords(pairs + train, held_out_pairs + held_out, form, len(pairs))


def good_texts(judgements: Sequence[Judgement]) -> list[str]:
    """The texts that a policy is to write like: the best of each record."""
    best = [(judgement, (judgement.ranking or ((0,),))[0]) for judgement in judgements]
    return [judgement.answers[place].response for judgement, group in best for place in group]


def _records(paths: Sequence[Path], config: RewardConfig, split: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for path in paths:
        if is_hub_data_set(path):
            found += data_set_records(str(path), config.dataset.configuration, split)
        else:
            found += judgement_records(path)
    return found


def _held_out(
    records: Sequence[tuple[str, dict[str, Any]]], trained: Collection[JudgementKind], reading: Reading
) -> list[Judgement]:
    """Of a record that says several things, what is trained; of one that says none of that, what it says."""
    found: list[Judgement] = []
    for record in records:
        try:
            found += judgements_of([record], trained, reading)
        except TrineError:
            found += judgements_of([record], KINDS, reading)
    return found


def _read_preferences(config: RewardConfig) -> tuple[list[Judgement], list[Judgement]]:
    """The pairs of a preferences stage, or of a file of pairs."""
    if config.preferences is None:
        return [], []
    folder = config.preferences.is_dir()
    train = config.preferences / "train.jsonl" if folder else config.preferences
    pairs = read_preferences(train)
    if not pairs:
        raise TrineError(f"{train} holds no preferences")
    held_out = read_preferences(config.preferences / "held_out.jsonl") if folder and not config.held_out else []
    return [_judgement(pair) for pair in pairs], [_judgement(pair) for pair in held_out]


def _judgement(pair: PreferencePair) -> Judgement:
    sides = Answer(pair.prompt, pair.chosen, pair.chosen_ended), Answer(pair.prompt, pair.rejected, pair.rejected_ended)
    return Judgement(pair.prompt, sides, ranking=((0,), (1,)), name=pair.name, group=pair.group)


def _places(config: RewardConfig) -> str:
    named = [getattr(config, name) for name in SOURCES if getattr(config, name)]
    return ", ".join(str(path) for each in named for path in (each if isinstance(each, tuple) else (each,)))


def _check_scores(judgements: Sequence[Judgement]) -> None:
    values = {judgement.score for judgement in judgements if judgement.score is not None}
    if len(values) == 1:
        raise TrineError(f"every score is {values.pop():g}; there is nothing to learn from them")
