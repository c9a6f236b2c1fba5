"""What needs texts scored anew: accuracy against words seen, and another reward model's view of the same answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.algorithms.resampling import bootstrap_intervals
from trine.algorithms.statistics import grouped_mean, grouped_share, paired_difference
from trine.algorithms.text_calibration import right_labels
from trine.algorithms.text_correlation import concordance, spearman
from trine.algorithms.text_lengths import first_words, word_count
from trine.records import Answer
from trine.rewards.base import Reward
from trine.stages.preferences.contradictions import ordered_places
from trine.stages.preferences.figures import figure, with_interval
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.worth_by_kind import groups_of

Figures = dict[str, Any]
WORDS_SEEN = (8, 16, 32, 64)


def words_seen(
    items: Sequence[Judged], reward: Reward, gain: float, offset: float, generator: np.random.Generator
) -> list[Figures]:
    """How right the reward is that sees the first 8, 16, 32, 64 words of each answer, and all of them.

    `reward` scores gain * s + offset, s being the unit of training. An answer that is cut is scored as PPO's are, which
    did not end. Sizes that cut no answer are left out. `cut`: the share of answers that are.
    """
    lengths = [word_count(answer.response) for each in items for answer in each.item.answers]
    rows = []
    for size in WORDS_SEEN:
        cut = sum(length > size for length in lengths)
        if cut:
            shown = cut_to(items, size, reward, gain, offset)
            rows.append({"words": size, "cut": cut / len(lengths)} | rightness(shown, generator))
    return [*rows, {"words": None, "cut": 0.0} | rightness(items, generator)]


def rescored(items: Sequence[Judged], reward: Reward) -> list[Judged]:
    """The same judgements with the scores that `reward` gives the answers, read as text."""
    scores = iter(reward.score([_as_text(answer) for each in items for answer in each.item.answers]).tolist())
    return [replace(each, scores=tuple(next(scores) for _ in each.item.answers)) for each in items]


def cut_to(items: Sequence[Judged], words: int, reward: Reward, gain: float, offset: float) -> list[Judged]:
    """The same judgements with the scores of the answers' first words; those that have no more keep theirs."""
    cut = [_cut(answer, words) for each in items for answer in each.item.answers]
    scores = reward.score([answer for answer in cut if answer is not None]).double()
    found, new = iter(((scores - offset) / gain).tolist()), iter(cut)
    return [
        replace(each, scores=tuple(score if next(new) is None else next(found) for score in each.scores))
        for each in items
    ]


def _cut(answer: Answer, words: int) -> Answer | None:
    """The first words of an answer, which then has not ended; None where it has no more."""
    text = first_words(answer.response, words)
    if not answer.response[len(text) :].strip():
        return None
    return replace(_as_text(answer), response=text, ended=False)


def _as_text(answer: Answer) -> Answer:
    """The answer without the ids of any tokenizer."""
    return replace(answer, response_ids=(), prompt_ids=(), tokenizer="")


def right_each(items: Sequence[Judged]) -> list[float]:
    """Of each judgement how right the scores are: of a label 1 or 0, of pairs and rankings the share of pairs in order;
    NaN where all is tied. Not for scores."""
    rights = []
    for each in items:
        if each.item.label is not None:
            label = np.asarray([float(each.item.label)])
            rights.append(float(right_labels(np.asarray(each.scores), label)[0]))
        else:
            wins = [_win(each.scores[a], each.scores[b]) for a, b in ordered_places(each.item)]
            rights.append(sum(wins) / len(wins) if wins else float("nan"))
    return rights


def _win(better: float, worse: float) -> float:
    return 0.5 if better == worse else float(better > worse)


def rightness(items: Sequence[Judged], generator: np.random.Generator) -> Figures:
    """The one figure of a kind: accuracy; of scores Spearman's correlation."""
    if items[0].kind == "score":
        ours = np.asarray([each.scores[0] for each in items], np.float64)
        theirs = np.asarray([each.item.score for each in items], np.float64)

        def resampled(places: NDArray[np.int64]) -> list[float]:
            return [spearman(ours[places], theirs[places])]

        (interval,) = bootstrap_intervals(resampled, groups_of(items), generator)
        return with_interval(spearman(ours, theirs), interval, len(items))
    known = [(r, g) for r, g in zip(right_each(items), groups_of(items).tolist(), strict=True) if np.isfinite(r)]
    if not known:
        return with_interval(float("nan"), None, 0)
    estimate = grouped_mean if items[0].kind == "ranking" else grouped_share
    return figure(estimate([right for right, _ in known], [group for _, group in known]))


def beside(items: Sequence[Judged], other: Reward, generator: np.random.Generator) -> Figures:
    """What another reward gets right of the same judgements, and how much more or less this one does.

    `difference` is this one's minus the other's, paired, with an interval over groups; of scores it has none.
    """
    theirs = rescored(items, other)
    found: Figures = {"figure": rightness(theirs, generator), "difference": None}
    if items[0].kind != "score":
        pairs = [
            (a, b, group)
            for a, b, group in zip(right_each(theirs), right_each(items), groups_of(items).tolist(), strict=True)
            if np.isfinite(a) and np.isfinite(b)
        ]
        found["difference"] = _paired(pairs) if pairs else None
    return found


def _paired(rows: Sequence[tuple[float, float, int]]) -> Figures:
    """Of groups with several items the means, so that a group counts once."""
    by_group: dict[int, list[tuple[float, float]]] = {}
    for a, b, group in rows:
        by_group.setdefault(group, []).append((a, b))
    sides = [[float(np.mean([pair[side] for pair in each])) for each in by_group.values()] for side in (0, 1)]
    difference = paired_difference(sides[0], sides[1])
    return with_interval(difference.mean, difference.interval, difference.items)


def agreement(items: Sequence[Judged], reward: Reward, generator: np.random.Generator) -> Figures | None:
    """Of two answers, how often two reward models prefer the same one: within a prompt where it has several answers,
    else of two texts at random. One half is chance."""
    groups, other = groups_of(items).tolist(), rescored(items, reward)
    if any(len(each.scores) > 1 for each in items):
        shares = [
            (concordance(np.asarray(a.scores), np.asarray(b.scores)), group)
            for a, b, group in zip(items, other, groups, strict=True)
        ]
        known = [(share, group) for share, group in shares if np.isfinite(share)]
        return figure(grouped_mean([share for share, _ in known], [group for _, group in known])) if known else None
    order = generator.permutation(len(items)).tolist()
    signs = [
        np.sign((items[a].scores[0] - items[b].scores[0]) * (other[a].scores[0] - other[b].scores[0]))
        for a, b in zip(order[::2], order[1::2], strict=False)
    ]
    alike = [float(sign > 0) for sign in signs if sign]
    return figure(grouped_share(alike, list(range(len(alike))))) if alike else None
