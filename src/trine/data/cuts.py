"""Texts cut at random places, as PPO shows them to a reward model: answers that hit a token budget.

A reward model that has read whole reviews only scores their openings worse than one that has read both. Runs of words
from anywhere in a text teach more than its beginnings do, where a text comes to its point late (docs/LOG.md, 0.8).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from trine.config.preferences import CutsConfig
from trine.data.judgements import asked_of
from trine.records import Answer, Judgement
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for

_WORD = re.compile(r"\S+")
Cut = Callable[[Answer, int, float], Answer | None]
"""an answer to a run of n units; None where it has no more than n. The last number, between 0 and 1, says where the run
starts: at 0 with the answer, at 1 so late that it ends with it"""


def with_cuts(judgements: Sequence[Judgement], cuts: CutsConfig, cut: Cut, seed: int) -> list[Judgement]:
    """`judgements` and, behind each label and score, the same said of `cuts.count` runs of its text.

    A run has `cuts.low` to `cuts.high` units, and is left out where that is the whole. Raises `TrineError` where runs
    from anywhere are asked for of an answer, which would no longer follow its prompt.
    """
    generator = generator_for(seed, "cuts")
    found: list[Judgement] = []
    for judgement in judgements:
        found.append(judgement)
        if not cuts.count or judgement.kind not in ("label", "score"):
            continue
        lengths = generator.integers(cuts.low, cuts.high + 1, size=cuts.count).tolist()
        places = [0.0] * cuts.count
        if cuts.start == "anywhere":
            _check_is_whole_text(judgement)
            places = generator.random(cuts.count).tolist()
        shown = map(cut, [judgement.answers[0]] * cuts.count, lengths, places)
        found += [replace(judgement, answers=(answer,)) for answer in shown if answer is not None]
    return found


def _check_is_whole_text(judgement: Judgement) -> None:
    if asked_of(judgement):
        raise TrineError(
            f"{judgement.name}: cuts.start=anywhere is for whole texts, and this is an answer, which has to follow its "
            "prompt: say cuts.start=beginning"
        )


def first_unit(place: float, count: int, units: int) -> int:
    """Where a run of `count` out of `units` starts: every start is as likely as any other for a random `place`."""
    return min(int(place * (units - count + 1)), units - count)


def run_of_words(answer: Answer, count: int, place: float) -> Answer | None:
    """`count` words, separated by blanks, as they stand.

    >>> run_of_words(Answer((), "A  fine film."), 2, 0.0).response
    'A  fine'
    >>> run_of_words(Answer((), "A  fine film."), 2, 1.0).response
    'fine film.'
    """
    words = [match.span() for match in _WORD.finditer(answer.response)]
    if len(words) <= count:
        return None
    first = first_unit(place, count, len(words))
    begin = words[first][0] if first else 0
    last = first + count == len(words)
    end = len(answer.response) if last else words[first + count - 1][1]
    return replace(answer, response=answer.response[begin:end], ended=answer.ended and last)
