"""Judgements as token ids: what a reward model reads, in training exactly what it will read when it scores.

An answer that ended has its end token, at which it is scored. One that did not is closed as the model will close it
(`rewards/closing.py`). Too long a one is cut as the model will cut it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trine.algorithms.text_judgements import MAX_TIED, Ranking, ranked_pairs
from trine.config.preferences import RewardConfig
from trine.data.judgements import asked_of
from trine.model.heads import ScoreModel
from trine.records import Answer, Judgement, JudgementKind
from trine.rewards.closing import closed_ids, shortened
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Item:
    """A judgement as token ids: the prompt, and each answer as it is scored.

    `target`: of a label 1 or 0, of a score its standardised value. `pairs`: of pairs and rankings (better, worse,
    probability that it is so), places in `answers`; `ranking` their groups, best first. `record`: its place in the list
    that it was made of.
    """

    kind: JudgementKind
    prompt: list[int]
    answers: tuple[list[int], ...]
    target: float = 0.0
    pairs: tuple[tuple[int, int, float], ...] = ()
    ranking: Ranking = ()
    margin: float = 0.0
    weight: float = 1.0
    record: int = 0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


def pair_item(prompt: list[int], chosen: list[int], rejected: list[int]) -> Item:
    """A preference pair.

    >>> pair_item([1, 2], [3], [4]).pairs
    ((0, 1, 1.0),)
    """
    return Item("pair", prompt, (chosen, rejected), pairs=((0, 1, 1.0),), ranking=((0,), (1,)))


def with_places(items: Sequence[Item]) -> list[tuple[Item, int]]:
    """Each item, and where its answers begin among those of all."""
    found, first = [], 0
    for item in items:
        found.append((item, first))
        first += len(item.answers)
    return found


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of the training scores, which standardise every score."""

    mean: float = 0.0
    deviation: float = 1.0

    def __call__(self, score: float) -> float:
        return (score - self.mean) / self.deviation


def standard_of(judgements: Sequence[Judgement]) -> Standard:
    """Of the scores among `judgements`; 0 and 1 where there are none."""
    scores = np.array([judgement.score for judgement in judgements if judgement.score is not None], np.float64)
    return Standard(float(scores.mean()), float(scores.std())) if len(scores) else Standard()


class Renderer:
    """Turns judgements into items for `model`; `account` counts those that were cut or dropped."""

    def __init__(self, model: ScoreModel, tokenizer: Tokenizer, config: RewardConfig, standard: Standard) -> None:
        self.format = answer_format(tokenizer, model.form)
        self.tokenizer, self.model, self.config, self.standard = tokenizer, model, config, standard
        self.limit = min(config.max_tokens or model.trunk.config.context, model.trunk.config.context)
        self.account = Counter[str]()
        self._newlines = frozenset(i for i, data in enumerate(tokenizer.token_bytes) if b"\n" in data)

    def items(self, judgements: Sequence[Judgement]) -> list[Item]:
        """Raises `TrineError` naming the first record that is too long, where that is an error."""
        found = []
        with progress_bar("encoding", len(judgements)) as bar:
            for record, judgement in enumerate(judgements):
                prompt = self._prompt_ids(judgement.answers[0])
                read = self._fitting(judgement, prompt, [self._answer_ids(answer) for answer in judgement.answers])
                if read is not None:
                    found.append(self._item(judgement, *read, record))
                bar.advance_or_stop()
        return found

    def _item(self, judgement: Judgement, prompt: list[int], answers: list[list[int]], record: int) -> Item:
        said: dict[str, Any] = {}
        if judgement.ranking is not None:
            pairs = ranked_pairs(judgement.ranking)
            if judgement.probability is not None:
                pairs = [(better, worse, judgement.probability) for better, worse, _ in pairs]
            self._check_ties(judgement)
            said = {"pairs": tuple(pairs), "ranking": judgement.ranking}
        elif judgement.score is not None:
            said = {"target": self.standard(judgement.score)}
        else:
            said = {"target": float(bool(judgement.label))}
        return Item(
            judgement.kind, prompt, tuple(answers), margin=judgement.margin, weight=judgement.weight, record=record,
            **said,
        )  # fmt: skip

    def _check_ties(self, judgement: Judgement) -> None:
        tied = max(len(group) for group in judgement.ranking or ())
        if self.config.ranking_loss == "plackett_luce" and tied > MAX_TIED:
            raise TrineError(
                f"{judgement.name}: a tie of {tied} answers; ranking_loss=plackett_luce sums over the orders of at "
                f"most {MAX_TIED}: say ranking_loss=pairs"
            )

    def _prompt_ids(self, answer: Answer) -> list[int]:
        if isinstance(self.format, TextFormat):
            return self.format.query_ids(answer.query or "")
        return self.format.prompt_ids(answer.prompt)

    def _answer_ids(self, answer: Answer) -> list[int]:
        ids = list(answer.response_ids)
        if answer.tokenizer != self.tokenizer.fingerprint:
            ids = self.format.response_ids(answer.response, ended=answer.ended)
        return ids if answer.ended else closed_ids(ids, self.format.end_id, self._newlines, self.model.closed)

    def _fitting(
        self, judgement: Judgement, prompt: list[int], answers: list[list[int]]
    ) -> tuple[list[int], list[list[int]]] | None:
        """Prompt and answers that fit; None where the record is dropped."""
        if self.config.too_long == "cut":
            both = [shortened(prompt, answer, self.limit, self.config.truncation_side) for answer in answers]
            kept = both[0][0], [answer for _, answer in both]
            self.account["cut"] += kept != (prompt, answers)
            return kept
        longest = len(prompt) + max(map(len, answers))
        if longest <= self.limit:
            return prompt, answers
        if self.config.too_long == "stop":
            limit = f"max_tokens={self.limit}" if self.config.max_tokens else f"the context of {self.limit}"
            raise TrineError(
                f"{judgement.name}: the {judgement.kind} has {longest} tokens, more than {limit}; shorten it, or say "
                "what to do with those that are too long: too_long=cut or too_long=drop"
            )
        self.account["dropped"] += 1
        return None


def batch_elements(items: Sequence[Item], judgements: Sequence[Judgement], alone: int = 0) -> list[list[int]]:
    """What a batch takes whole or not at all: the pairs and rankings of one prompt, and the labels of one record.

    (Ouyang et al. 2022, section 3.5: an answer that stands in several batches of an epoch is overfitted.) Items with no
    prompt before their answers, and the first `alone` records, are elements of their own.
    """
    elements: dict[Any, list[int]] = {}
    for place, item in enumerate(items):
        judgement = judgements[item.record]
        asked = asked_of(judgement)
        key: Any = (asked, "" if item.pairs else judgement.name) if asked and item.record >= alone else place
        elements.setdefault(key, []).append(place)
    return list(elements.values())
