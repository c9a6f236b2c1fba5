"""Best of four and ties, counted as RewardBench 2 counts them."""

import math
from itertools import combinations

import numpy as np
import pytest

from trine.algorithms.text_lengths import first_words, word_count
from trine.algorithms.text_reward_bench import (
    TieMargins,
    best_of_four_from_labels,
    choice_credit,
    tie_margins,
    ties_score,
)


def test_the_best_of_four_is_credited_and_a_tie_at_the_top_shares_it() -> None:
    assert choice_credit([3.0, 1.0, 2.0, 0.0], [0]) == 1.0
    assert choice_credit([1.0, 3.0, 2.0, 0.0], [0]) == 0.0
    assert choice_credit([2.0, 2.0, 1.0, 2.0], [0]) == pytest.approx(1 / 3)
    assert choice_credit([2.0, 2.0, 1.0, 2.0], [0, 1]) == pytest.approx(2 / 3)


def test_of_labels_it_is_the_mean_over_all_sets_of_three() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(5, size=12).astype(float)
    labels = np.array([1.0] * 4 + [0.0] * 8)
    wanted = [
        np.mean(
            [
                choice_credit([scores[yes], *(scores[4 + no] for no in three)], [0])
                for three in combinations(range(8), 3)
            ]
        )
        for yes in range(4)
    ]
    assert best_of_four_from_labels(scores, labels) == pytest.approx(wanted)
    assert len(best_of_four_from_labels(scores[:6], labels[:6])) == 0


def test_ties_are_scored_as_by_reward_bench() -> None:
    tied = [tie_margins([3.0, 2.5, 1.0, 0.0], [0, 1]), tie_margins([3.0, 0.5, 1.0, 0.0], [0, 1])]
    single = [tie_margins([2.0, 1.0], [0]), tie_margins([1.0, 2.0], [0])]
    assert tied == [TieMargins(0.5, 1.5), TieMargins(2.5, -0.5)]
    assert [each.separated for each in tied] == [True, False]
    tie_break = (math.tanh(1.0 / 0.5 - 1) + math.tanh(-1.0 / 2.5 - 1)) / 2
    assert ties_score(tied, single) == pytest.approx(0.3 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * tie_break)


def test_without_variants_of_one_good_answer_the_range_is_the_same() -> None:
    perfect, wrong = TieMargins(0.01, 100.0), TieMargins(1.0, -9.0)
    assert ties_score([perfect]) == pytest.approx(1.01)
    assert ties_score([wrong]) == pytest.approx(-0.01)


def test_words_are_counted_and_cut_with_and_without_blanks() -> None:
    assert word_count("") == 0
    assert first_words("", 3) == ""
    assert first_words("one\n two  three", 2) == "one\n two"
    assert first_words("one two", 2) == "one two"
    assert first_words("真的很好看", 2) == "真的"
    assert word_count("看 two 部") == 3
