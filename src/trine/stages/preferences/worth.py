"""What a reward model is worth, measured on judgements that it did not learn from, before it rewards anything.

    worth(held_out, train, reward)     held out: `Judged`, each a judgement and the model's scores of its answers

Of every kind of judgement: its own figures (`worth_by_kind.py`), whether length explains the score (`worth_length.py`),
how right it is of an answer's first words, and beside it a model that counts words (`worth_texts.py`); and of all
judgements, how many contradict each other (`contradictions.py`). Every figure has its interval, over groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trine.records import Judgement, JudgementKind
from trine.rewards.base import Reward
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.stages.preferences.contradictions import contradictions
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.worth_by_kind import label_figures, pair_figures, ranking_figures, score_figures
from trine.stages.preferences.worth_length import length_figures
from trine.stages.preferences.worth_texts import agreement, beside, words_seen

Figures = dict[str, Any]
OF_KIND: dict[JudgementKind, Callable[[Sequence[Judged], np.random.Generator], Figures]] = {
    "label": label_figures,
    "score": score_figures,
    "pair": pair_figures,
    "ranking": ranking_figures,
}


@dataclass(frozen=True)
class Beside:
    """Rewards that the held-out answers are scored by too.

    `reward`: the model itself, which scores gain * s + offset where s is the unit of training. `words`: one that counts
    words, learned from the same judgements. `other`: a reward model of another seed.
    """

    reward: Reward | None = None
    gain: float = 1.0
    offset: float = 0.0
    words: Reward | None = None
    other: Reward | None = None


def worth(
    held_out: Sequence[Judged], train: Sequence[Judgement], rewards: Beside | None = None, seed: int = 0
) -> Figures:
    """All figures as done.json has them: `kinds` by name, and `contradictions` of training and held-out judgements.

    A kind without held-out judgements is absent.
    """
    rewards = rewards or Beside()
    by_kind = {kind: [each for each in held_out if each.kind == kind] for kind in OF_KIND}
    kinds = {kind: _of_kind(kind, items, rewards, seed) for kind, items in by_kind.items() if items}
    found = {"kinds": kinds, "contradictions": contradictions([*train, *(each.item for each in held_out)])}
    for kind, figures in kinds.items():
        if figures["length"]["warning"]:
            say(f"reward: length explains the scores of held-out {kind}s; see the report")
    return found


def _of_kind(kind: JudgementKind, items: Sequence[Judged], rewards: Beside, seed: int) -> Figures:
    generator = generator_for(seed, "worth", kind)
    found: Figures = (
        {"items": len(items)} | OF_KIND[kind](items, generator) | {"length": length_figures(items, generator)}
    )
    parts: dict[str, Callable[[], Any]] = {}
    if rewards.reward is not None:
        parts["words_seen"] = partial(words_seen, items, rewards.reward, rewards.gain, rewards.offset, generator)
    if rewards.words is not None:
        parts["words_model"] = partial(beside, items, rewards.words, generator)
    if rewards.other is not None:
        parts["agreement"] = partial(agreement, items, rewards.other, generator)
    for name, part in parts.items():
        try:
            found[name] = part()
        except TrineError as error:  # a figure beside the others is worth no run: an answer too long for it, say
            say(f"reward: {name.replace('_', ' ')} of held-out {kind}s is left out: {error}")
    return found
