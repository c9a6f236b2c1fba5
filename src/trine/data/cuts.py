"""Texts cut at random places, as PPO shows them to a reward model: answers that hit a token budget.

A reward model that has read whole reviews only scores their openings worse than one that has read both.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from trine.config.preferences import CutsConfig
from trine.records import Answer, Judgement
from trine.runtime.seeds import generator_for

Cut = Callable[[Answer, int], Answer | None]
"""an answer to its first n units, not ended; None where it has no more than n"""


def with_cuts(judgements: Sequence[Judgement], cuts: CutsConfig, cut: Cut, seed: int) -> list[Judgement]:
    """`judgements` and, behind each label and score, the same said of `cuts.count` beginnings of its text.

    A beginning has `cuts.low` to `cuts.high` units, and is left out where that is the whole.
    """
    generator = generator_for(seed, "cuts")
    found: list[Judgement] = []
    for judgement in judgements:
        found.append(judgement)
        if judgement.kind in ("label", "score"):
            lengths = generator.integers(cuts.low, cuts.high + 1, size=cuts.count).tolist()
            shown = [cut(judgement.answers[0], length) for length in lengths]
            found += [replace(judgement, answers=(answer,)) for answer in shown if answer is not None]
    return found


def first_words(answer: Answer, count: int) -> Answer | None:
    """The first `count` words, separated by blanks, as they stand.

    >>> first_words(Answer((), "A  fine film."), 2).response
    'A  fine'
    """
    place = 0
    for word in answer.response.split()[:count]:
        place = answer.response.index(word, place) + len(word)
    whole = not answer.response[place:].strip()
    return None if whole else replace(answer, response=answer.response[:place], ended=False)
