"""kind: words: a reward model that counts words (`rewards/word_scores.py`), of judgements of every kind, in seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trine.algorithms.text_judgements import ranked_pairs
from trine.config.backbones import WordsConfig
from trine.config.preferences import KindWeights, RewardConfig
from trine.data.cuts import run_of_words, with_cuts
from trine.data.judgements import counted
from trine.records import Judgement
from trine.rewards.word_reward import WordReward, words_read
from trine.rewards.word_scores import WordScorer, WordTargets
from trine.rewards.words import Floats
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say
from trine.stages.preferences.judged import Judged, held_out_figures
from trine.stages.preferences.reward_items import Standard, standard_of
from trine.stages.preferences.reward_records import RewardRecords
from trine.stages.preferences.worth_of_run import Trained, worth_of
from trine.training.stage_run import StageRun

TOLD = 12
"""words of each sign that done.json names"""


@dataclass
class _Collected:
    """The columns of a `WordTargets` on their way."""

    labelled: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    label_weights: list[float] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    score_weights: list[float] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    pair_weights: list[float] = field(default_factory=list)

    def add(self, judgement: Judgement, places: Sequence[int], standard: Standard, weight: float) -> None:
        if judgement.label is not None:
            self.labelled.append(places[0])
            self.labels.append(float(judgement.label))
            self.label_weights.append(weight)
        elif judgement.score is not None:
            self.scored.append(places[0])
            self.scores.append(standard(judgement.score))
            self.score_weights.append(weight)
        for first, second, probability, share in pairs_of(judgement):
            self.first.append(places[first])
            self.second.append(places[second])
            self.probabilities.append(probability)
            self.margins.append(judgement.margin)
            self.pair_weights.append(weight * share)

    def targets(self) -> WordTargets:
        def places(of: list[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
            return np.array(of, np.int64)

        def numbers(of: list[float]) -> Floats:
            return np.array(of, np.float64)

        return WordTargets(
            places(self.labelled), numbers(self.labels), numbers(self.label_weights),
            places(self.scored), numbers(self.scores), numbers(self.score_weights),
            places(self.first), places(self.second), numbers(self.probabilities), numbers(self.margins),
            numbers(self.pair_weights),
        )  # fmt: skip


def pairs_of(judgement: Judgement) -> Iterator[tuple[int, int, float, float]]:
    """(better, worse, probability, weight) of every two ranked answers; the weights of one ranking add up to 1."""
    pairs = ranked_pairs(judgement.ranking or ())
    for first, second, likely in pairs:
        yield first, second, likely if judgement.probability is None else judgement.probability, 1 / len(pairs)


def learn_words(
    judgements: Sequence[Judgement],
    settings: WordsConfig,
    weights: KindWeights | None = None,
    cuts: Sequence[Judgement] = (),
) -> WordScorer:
    """The reward model by words of all `judgements`, and of `cuts` of their texts.

    `weights`: how much each kind counts, 1 where nothing is said. Words are counted in whole texts alone: one that
    stands in a text and in a cut of it was seen once.
    """
    standard = standard_of(judgements)
    texts: list[str] = []
    collected, whole = _Collected(), 0
    for number, judgement in enumerate([*judgements, *cuts], 1):
        places = range(len(texts), len(texts) + len(judgement.answers))
        texts += [words_read(answer) for answer in judgement.answers]
        weight = judgement.weight * getattr(weights or KindWeights(), judgement.kind)
        collected.add(judgement, places, standard, weight)
        whole = len(texts) if number == len(judgements) else whole
    return WordScorer.fit(
        texts, collected.targets(), order=settings.order, min_count=settings.min_count, penalty=settings.penalty,
        counted=range(whole),
    )  # fmt: skip


def train_words(config: RewardConfig, stage: StageRun, records: RewardRecords) -> dict[str, Any]:
    """Learn a reward model by words; write `model/`, its weights and its vocabulary."""
    train = with_cuts(records.train, config.cuts, run_of_words, config.seed)
    whole = set(map(id, records.train))
    cuts = [judgement for judgement in train if id(judgement) not in whole]
    scorer = learn_words(records.train, config.words, config.weights, cuts)
    if not scorer.vocabulary:
        raise TrineError(
            f"no word or run of words is in {config.words.min_count} of the texts to learn from: lower words.min_count"
        )
    items = beside_scores(scorer, records.held_out)
    results = held_out_figures(items)
    found = ", ".join(f"{name.removeprefix('held_out_').replace('_', ' ')} {x:.4f}" for name, x in results.items())
    say(f"reward: {len(train)} records, {len(scorer.vocabulary)} words and runs of words; held out: {found or 'none'}")
    told = {"form": records.form, "words": config.words.model_dump()}
    write_folder(stage.path / "model", lambda folder: scorer.save(folder, told))
    results |= worth_of(config, stage, Trained(WordReward(scorer), items), records.train)
    return results | {
        "kind": "words",
        "records": {"train": counted(train), "held_out": counted(records.held_out)},
        "form": records.form,
        "features": len(scorer.vocabulary),
        "words_for": scorer.heaviest(TOLD),
        "words_against": scorer.heaviest(TOLD, against=True),
    }


def counting_words(held_out: Sequence[Judged], train: Sequence[Judgement]) -> WordReward | None:
    """What another kind of reward model is compared with on `held_out`: words as they are by default, of `train`."""
    return WordReward(learn_words(train, WordsConfig())) if held_out else None


def beside_scores(scorer: WordScorer, judgements: Sequence[Judgement]) -> list[Judged]:
    """The judgements beside the scores of their answers."""
    texts = [words_read(answer) for judgement in judgements for answer in judgement.answers]
    scores = iter(scorer.score(texts).tolist())
    return [Judged(each, each.kind, tuple(next(scores) for _ in each.answers)) for each in judgements]
