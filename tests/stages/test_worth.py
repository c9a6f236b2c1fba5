"""What a reward model is worth: figures in worlds where they are known, and planted faults that have to be reported."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trine.algorithms.text_calibration import sigmoid
from trine.records import Answer, Judgement, Message
from trine.stages.preferences.contradictions import contradictions, flipped_share, ordered_places
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.worth import Beside, worth
from trine.stages.preferences.worth_length import matched_pairs

Score = Callable[[float, int, random.Random], float]
"""Of an answer's quality and its length in words."""


def answer(words: int, mark: str = "") -> Answer:
    return Answer((), " ".join([mark or "word", *["word"] * (words - 1)]), query="")


def scored_by(score: Score, items: Sequence[tuple[Judgement, Sequence[float]]], seed: int = 0) -> list[Judged]:
    source = random.Random(seed)
    return [
        Judged(
            item,
            item.kind,
            tuple(score(q, len(a.response.split()), source) for q, a in zip(qualities, item.answers, strict=True)),
        )
        for item, qualities in items
    ]


def labelled(count: int = 600, seed: int = 0, lean: float = 0.0) -> list[tuple[Judgement, Sequence[float]]]:
    """Texts of 5 to 200 words whose quality decides the label; with `lean`, good ones tend to be longer."""
    source, items = random.Random(seed), []
    for number in range(count):
        quality = source.gauss(0.0, 1.5)
        words = round(30 * np.exp(source.gauss(lean * np.sign(quality), 0.6))) + 3
        label = source.random() < float(sigmoid(np.asarray([quality * 2]))[0])
        items.append(
            (Judgement((), (answer(words, f"t{number}"),), label=label, group=f"film {number % 200}"), [quality])
        )
    return items


def paired(count: int = 500, seed: int = 0, lean: float = 0.0) -> list[tuple[Judgement, Sequence[float]]]:
    """Two answers to a prompt, the better of which was preferred; with `lean`, it tends to be longer."""
    source, items = random.Random(seed), []
    for number in range(count):
        good, bad = source.gauss(1.0, 1.0), source.gauss(-0.5, 1.0)
        lengths = [round(30 * np.exp(source.gauss(side * lean, 0.5))) + 3 for side in (1, -1)]
        prompt = (Message("user", f"q{number}"),)
        answers = [answer(length, f"{number}{side}") for length, side in zip(lengths, "ab", strict=True)]
        items.append((Judgement.pair(prompt, *answers), [good, bad]))
    return items


def honest(quality: float, words: int, source: random.Random) -> float:
    return 2 * quality + source.gauss(0.0, 0.5)


def by_length(quality: float, words: int, source: random.Random) -> float:
    return float(np.log(words)) + source.gauss(0.0, 0.1)


def by_shortness(quality: float, words: int, source: random.Random) -> float:
    return -by_length(quality, words, source)


def middling(quality: float, words: int, source: random.Random) -> float:
    """Of 30 words is best."""
    return -abs(float(np.log(words / 30))) + source.gauss(0.0, 0.05)


def of_kind(items: list[Judged], rewards: Beside | None = None) -> dict[str, Any]:
    figures: dict[str, Any] = worth(items, [], rewards)["kinds"][items[0].kind]
    return figures


# Length: a warning where it explains the score, and only there.


@pytest.mark.parametrize("made", [labelled, paired])
@pytest.mark.parametrize("lean", [0.0, 0.3])
def test_an_honest_model_gets_no_warning_even_where_good_answers_tend_to_be_longer(made: Any, lean: float) -> None:
    for seed in range(3):
        length = of_kind(scored_by(honest, made(seed=seed, lean=lean)))["length"]
        assert length["warning"] is None, length
        assert length["balanced"]["interval"][0] > 0.6


@pytest.mark.parametrize("made", [labelled, paired])
@pytest.mark.parametrize("fault", [by_length, by_shortness, middling])
@pytest.mark.parametrize("lean", [0.0, 0.5])
def test_a_model_of_length_is_warned_of_whatever_was_said_of_the_answers(made: Any, fault: Score, lean: float) -> None:
    length = of_kind(scored_by(fault, made(lean=lean)))["length"]
    assert length["warning"] == "explained"
    assert length["explained"]["interval"][0] > 0.5
    if fault is not middling:
        assert (length["correlation"]["mean"] > 0) == (fault is by_length)
        assert length["balanced"]["interval"][0] < 0.6


@pytest.mark.parametrize("made", [labelled, paired])
def test_where_all_that_is_right_is_length_it_is_warned_of_through_noise(made: Any) -> None:
    def noisy(quality: float, words: int, source: random.Random) -> float:
        return float(np.log(words)) + source.gauss(0.0, 0.7)

    length = of_kind(scored_by(noisy, made(count=1500, lean=0.4)))["length"]
    assert length["explained"]["interval"][0] < 0.5 < length["accuracy"]["interval"][0]
    assert length["warning"] == "only_length"


def test_a_model_of_noise_is_no_model_of_length() -> None:
    for made in (labelled, paired):
        items = scored_by(lambda q, w, source: source.gauss(0.0, 1.0), made(lean=0.5))  # type: ignore[operator]
        assert of_kind(items)["length"]["warning"] is None


def test_of_few_answers_nothing_is_claimed() -> None:
    length = of_kind(scored_by(by_length, paired(4)))["length"]
    assert length["warning"] is None and length["explained"]["interval"] is None and length["balanced"] is None


def test_texts_are_matched_by_length_once_each_and_only_near_ones() -> None:
    lengths = [random.Random(0).randint(1, 300) for _ in range(200)]
    values = [float(place % 2) for place in range(200)]
    pairs = matched_pairs(lengths, values)
    used = [place for pair in pairs for place in pair]
    assert len(pairs) > 50 and len(used) == len(set(used))
    assert all(
        values[a] != values[b] and max(lengths[a], lengths[b]) <= 1.1 * max(1, min(lengths[a], lengths[b]))
        for a, b in pairs
    )


# Contradictions.


def flipped(items: list[tuple[Judgement, Sequence[float]]], share: float, seed: int = 9) -> list[Judgement]:
    """Everything said twice, each time with that share of the labels turned round."""
    source, made = random.Random(seed), []
    for item, _ in items * 2:
        wrong = source.random() < share
        if item.label is not None:
            made.append(replace(item, label=item.label != wrong))
        else:
            made.append(replace(item, ranking=((1,), (0,)) if wrong else ((0,), (1,))))
    return made


@pytest.mark.parametrize(("made", "name"), [(labelled, "labels"), (paired, "orders")])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_flipped_labels_are_seen_in_duplicates_and_their_share_is_told(made: Any, name: str, share: float) -> None:
    found = contradictions(flipped(made(1000), share))[name]
    assert found["repeated"] == 1000
    assert found["contradictory"] == pytest.approx(1000 * 2 * share * (1 - share), abs=45)
    assert found["flipped"] == pytest.approx(share, abs=0.04)


def test_flipped_labels_lower_what_an_honest_model_agrees_with() -> None:
    clean, noisy = labelled(1500), labelled(1500)
    turned = [(item, q) for item, (_, q) in zip(flipped(noisy, 0.2)[:1500], noisy, strict=True)]
    before, after = (of_kind(scored_by(honest, items))["accuracy"] for items in (clean, turned))
    assert before["interval"][0] > after["interval"][1]
    assert after["mean"] == pytest.approx(0.2 + 0.6 * before["mean"], abs=0.04)


def test_ties_ends_of_lines_and_sides_that_are_alike() -> None:
    prompt = (Message("user", "q"),)
    a, b, c = (Answer(prompt, text) for text in ("a", "b", "c"))
    judgements = [
        Judgement(prompt, (a, b, c), ranking=((0,), (1, 2))),
        Judgement(prompt, (replace(b, response="b\n"), a), ranking=((0,), (1,))),
        Judgement(prompt, (b, c), ranking=((0, 1),)),
        Judgement(prompt, (a, a), ranking=((0,), (1,))),
        Judgement(prompt, (a, c), ranking=((0,), (1,)), probability=0.2),
    ]
    found = contradictions(judgements)["orders"]
    assert (found["repeated"], found["contradictory"], found["identical"]) == (2, 2, 1)
    assert ordered_places(judgements[4]) == [(1, 0)] and ordered_places(replace(judgements[4], probability=0.5)) == []


def test_scores_of_one_text_contradict_where_they_are_more_than_a_deviation_apart() -> None:
    one = Answer((), "text", query="")
    rows = [Judgement((), (one,), score=value) for value in (1.0, 5.0)]
    rows += [Judgement((), (answer(4, f"t{n}"),), score=float(n % 5)) for n in range(20)]
    found = contradictions(rows)["scores"]
    assert (found["repeated"], found["contradictory"]) == (1, 1)
    assert "flipped" not in found and "labels" not in contradictions(rows)


def test_labels_that_say_nothing_are_flipped_by_half() -> None:
    assert flipped_share([[0.0, 1.0]]) == 0.5
    assert flipped_share([]) is None


# Figures of each kind.


def test_labels_whose_log_odds_are_true_are_calibrated_and_twice_as_sure_ones_are_not() -> None:
    items = labelled(3000)
    true = of_kind(scored_by(lambda q, w, source: 2 * q, items))
    assert true["calibration_error"]["mean"] < 2.5 * true["calibration_error_by_chance"]
    assert true["temperature"]["value"] == pytest.approx(1.0, abs=0.12)
    sure = of_kind(scored_by(lambda q, w, source: 5 * q, items))
    assert sure["temperature"]["value"] == pytest.approx(2.5, rel=0.12)
    before, after = (sure["temperature"][when] for when in ("before", "after"))
    assert before["interval"][0] > after["interval"][1]
    assert sure["accuracy"] == true["accuracy"] and sure["auc"] == true["auc"]
    assert true["accuracy"]["interval"][0] < true["accuracy"]["mean"] < true["auc"]["mean"]
    assert 0.25 < true["best_of_4"]["mean"] < true["auc"]["mean"]
    assert sum(count for _, _, count in true["reliability"]) == 3000


def test_films_with_many_texts_widen_the_interval() -> None:
    alike = [(replace(item, group=f"film {number // 30}"), [q]) for number, (item, (q,)) in enumerate(labelled(600))]
    films = {number: random.Random(number).gauss(0, 5) for number in range(20)}
    apart = [(replace(item, group=str(number)), q) for number, (item, q) in enumerate(alike)]

    def width(items: Any) -> float:
        judged = scored_by(honest, items)
        moved = [replace(j, scores=(j.scores[0] + films[n // 30],)) for n, j in enumerate(judged)]
        low, high = of_kind(moved)["accuracy"]["interval"]
        return float(high - low)

    assert width(alike) > 1.2 * width(apart)


def test_scores_are_correlated() -> None:
    source = random.Random(0)
    items = [(Judgement((), (answer(9, f"t{n}"),), score=float(n % 7)), [float(n % 7)]) for n in range(300)]
    found = of_kind(scored_by(lambda q, w, _: q**3 + source.gauss(0, 0.01), items))
    assert found["spearman"]["mean"] > 0.98 > found["pearson"]["mean"]
    assert found["pearson"]["interval"][0] < found["pearson"]["mean"] < found["pearson"]["interval"][1]


def test_pairs_by_margin_and_by_length() -> None:
    items = [(replace(item, margin=float(n % 2)), q) for n, (item, q) in enumerate(paired(400))]

    def sees_margins(judged: list[Judged]) -> list[Judged]:
        return [replace(j, scores=(1.0, 0.0)) if j.item.margin else j for j in judged]

    found = of_kind(sees_margins(scored_by(honest, items)))
    small, large = found["by_margin"]
    assert (small["bin"], large["bin"]) == ("margin 0", "margin 1")
    assert large["mean"] == 1.0 > small["interval"][1]
    assert sum(row["items"] for row in found["by_length"]) == 400
    assert found["ties"] == 0 and found["accuracy"]["items"] == 400
    shortest, *_, longest = of_kind(scored_by(by_length, paired(400)))["by_length"]
    assert shortest["mean"] < 0.1 and longest["mean"] > 0.9


def test_ties_and_soft_labels_of_pairs_count_in_calibration_not_in_accuracy() -> None:
    prompt = (Message("user", "q"),)
    pair = Judgement.pair(prompt, answer(3, "a"), answer(3, "b"))
    items = [Judged(replace(pair, ranking=((0, 1),), group=str(n)), "pair", (0.0, 0.0)) for n in range(50)]
    found = of_kind(items)
    assert found["ties"] == 50 and "accuracy" not in found
    assert found["calibration_error"]["mean"] == 0.0 and found["loss"]["mean"] == pytest.approx(np.log(2))
    soft = [Judged(replace(pair, probability=0.8, group=str(n)), "pair", (1.2, 0.4)) for n in range(50)]
    assert of_kind(soft)["loss"]["mean"] == pytest.approx(0.531101, abs=1e-6)  # golden vector F1


def ranked(count: int = 200, tied: bool = False) -> list[tuple[Judgement, Sequence[float]]]:
    """Four answers to a prompt, in order; or the first two tied at the top."""
    ranking = ((0, 1), (2,), (3,)) if tied else ((0,), (1,), (2,), (3,))
    qualities = [2.0, 1.9, 0.0, -1.0] if tied else [3.0, 1.0, 0.0, -1.0]
    return [
        (
            Judgement(
                (Message("user", f"q{n}"),),
                tuple(answer(5 + (7 * n + 5 * k) % 11, f"{n}{k}") for k in range(4)),
                ranking=ranking,
            ),
            qualities,
        )
        for n in range(count)
    ]


def test_rankings_have_the_best_of_four_and_ties_their_score() -> None:
    found = of_kind(scored_by(honest, ranked()))
    assert list(found["best_of"]) == ["4"] and found["best_of"]["4"]["interval"][0] > 0.9
    assert found["accuracy"]["interval"][0] > 0.8 and "ties_score" not in found
    chance = of_kind(scored_by(lambda q, w, source: source.gauss(0, 1), ranked(400)))
    assert chance["best_of"]["4"]["mean"] == pytest.approx(0.25, abs=0.07)
    assert chance["accuracy"]["mean"] == pytest.approx(0.5, abs=0.05)
    good, bad = (of_kind(scored_by(score, ranked(tied=True)))["ties_score"] for score in (honest, by_length))
    assert good["interval"][0] > 0.7 and bad["mean"] < 0.2


# What needs texts scored anew.


class Marks:
    """A reward that reads how many words begin with `good`, in gain * s + offset."""

    def __init__(self, gain: float = 1.0, offset: float = 0.0) -> None:
        self.gain, self.offset, self.seen = gain, offset, list[Answer]()

    def score(self, answers: Sequence[Answer]) -> Tensor:
        self.seen += answers
        counts = [sum(word == "good" for word in each.response.split()) for each in answers]
        return torch.tensor([self.gain * (count - 0.5) + self.offset for count in counts])


def late_words(count: int = 200) -> list[Judgement]:
    """Texts of 20 words whose good word, where they have one, is at place 12."""
    return [
        Judgement((), (Answer((), " ".join(["dull"] * 12 + ["good" if n % 2 else "poor"] + ["end"] * 7), query=""),),
                  label=bool(n % 2), name=str(n))
        for n in range(count)
    ]  # fmt: skip


def test_accuracy_rises_with_the_words_that_are_seen_and_cut_texts_have_not_ended() -> None:
    reward = Marks(gain=3.0, offset=7.0)
    items = [Judged(item, "label", (Marks().score(item.answers)[0].item(),)) for item in late_words()]
    seen = of_kind(items, Beside(reward, gain=3.0, offset=7.0))["words_seen"]
    assert [row["words"] for row in seen] == [8, 16, None]  # 32 words cut none of them
    assert [row["mean"] for row in seen] == [0.5, 1.0, 1.0]
    assert [row["cut"] for row in seen] == [1.0, 1.0, 0.0]
    assert all(not answer.ended and answer.query == "" and not answer.tokenizer for answer in reward.seen)
    assert {len(answer.response.split()) for answer in reward.seen} == {8, 16}


def test_the_words_model_stands_beside_with_the_paired_difference() -> None:
    items = scored_by(lambda q, w, source: 1.0 if source.random() < 0.5 else -1.0, [(i, [0.0]) for i in late_words()])
    found = of_kind(items, Beside(words=Marks()))["words_model"]
    assert found["figure"]["mean"] == 1.0
    assert found["difference"]["interval"][1] < 0  # counting words does better


def test_two_seeds_agree_as_far_as_they_do() -> None:
    class Again:
        def __init__(self, noise: float) -> None:
            self.noise = noise

        def score(self, answers: Sequence[Answer]) -> Tensor:
            generator = torch.Generator().manual_seed(1)
            own = torch.tensor([qualities[each.response] for each in answers])
            return own + self.noise * torch.randn(len(answers), generator=generator)

    for made in (paired, labelled):
        items = scored_by(lambda q, w, source: q, made(400))  # type: ignore[operator]
        qualities = {a.response: s for each in items for a, s in zip(each.item.answers, each.scores, strict=True)}
        same, near, far = (of_kind(items, Beside(other=Again(noise)))["agreement"] for noise in (0.0, 1.0, 1000.0))
        assert same["mean"] == 1.0 > near["mean"] > 0.65
        assert far["interval"][0] < 0.5 < far["interval"][1]


def test_all_kinds_at_once_and_the_same_seed_gives_the_same_figures() -> None:
    items = [*scored_by(honest, labelled(60)), *scored_by(honest, paired(60)), *scored_by(honest, ranked(20))]
    first, again = (worth(items, [], seed=3) for _ in range(2))
    assert list(first["kinds"]) == ["label", "pair", "ranking"] and repr(first) == repr(again)
    assert worth([], []) == {"kinds": {}, "contradictions": {}}
