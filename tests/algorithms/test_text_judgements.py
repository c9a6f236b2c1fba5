"""Losses of labels, scores, pairs and rankings, against vectors worked out apart (F1 to F4, F6)."""

from itertools import permutations
from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from trine.algorithms.text_judgements import (
    MAX_TIED,
    Ranking,
    centring_losses,
    label_losses,
    pair_losses,
    plackett_luce_loss,
    ranked_pairs,
    score_losses,
    smoothed,
)

CHOSEN, REJECTED = torch.tensor([1.2, 0.3]), torch.tensor([0.4, 0.8])
ONES, ZEROS = torch.ones(2), torch.zeros(2)
FOUR = torch.tensor([2.0, 1.0, 0.5, -1.0])
ORDER = [[0], [1], [2], [3]]


def all_pairs_mean(scores: Tensor, ranking: Ranking) -> Tensor:
    rows = ranked_pairs(ranking)
    better, worse = (scores[[row[side] for row in rows]] for side in (0, 1))
    likely = scores.new_tensor([row[2] for row in rows])
    return pair_losses(better, worse, likely, torch.zeros(len(rows))).mean()


def test_pairs_with_margins_soft_labels_and_ties_are_f1() -> None:
    assert_close(pair_losses(CHOSEN, REJECTED, ONES, ZEROS), torch.tensor([0.371101, 0.974077]), atol=1e-6, rtol=0)
    assert_close(pair_losses(CHOSEN, REJECTED, ONES, ONES / 2), torch.tensor([0.554355, 1.313262]), atol=1e-6, rtol=0)
    soft = pair_losses(CHOSEN, REJECTED, torch.tensor([0.8, 0.5]), ZEROS)
    assert float(soft[0]) == pytest.approx(0.531101, abs=1e-6)
    tie = pair_losses(CHOSEN[:1], REJECTED[:1], ONES[:1] / 2, ZEROS[:1])
    assert float(tie) == pytest.approx(0.771101, abs=1e-6)
    equal = pair_losses(ZEROS, ZEROS, ONES / 2, ZEROS)
    assert_close(equal, torch.full((2,), log(2)))


def test_centring_is_f2() -> None:
    assert_close(0.01 * centring_losses(CHOSEN, REJECTED), torch.tensor([0.0256, 0.0121]), atol=1e-7, rtol=0)


def test_rankings_are_f3() -> None:
    assert float(plackett_luce_loss(FOUR, ORDER)) == pytest.approx(1.251552, abs=1e-6)
    assert float(plackett_luce_loss(FOUR, [[0], [1, 2, 3]])) == pytest.approx(0.495182, abs=1e-6)  # top-1 alone
    assert float(all_pairs_mean(FOUR, ORDER)) == pytest.approx(0.227613, abs=1e-6)
    assert float(plackett_luce_loss(FOUR, [[0], [1, 2], [3]])) == pytest.approx(0.748698, abs=1e-6)
    for loss in (plackett_luce_loss, all_pairs_mean):
        assert_close(loss(FOUR + 7, ORDER), loss(FOUR, ORDER))


def test_a_ranking_of_two_is_a_pair() -> None:
    pair = pair_losses(FOUR[:1], FOUR[1:2], ONES[:1], ZEROS[:1])[0]
    assert_close(plackett_luce_loss(FOUR[:2], [[0], [1]]), pair)
    assert_close(all_pairs_mean(FOUR[:2], [[0], [1]]), pair)


@pytest.mark.parametrize("ranking", [[[1, 3, 0], [2]], [[2], [0, 1, 3]], [[0, 1, 2, 3]], [[3, 1], [0, 2]], [[3], [0]]])
def test_a_tie_is_the_sum_over_all_its_orders(ranking: list[list[int]]) -> None:
    """The recursion over subsets against the definition."""
    orders: list[list[int]] = [[]]
    for group in ranking:
        orders = [[*order, *tied] for order in orders for tied in permutations(group)]
    each = [-plackett_luce_loss(FOUR.double(), [[answer] for answer in order]) for order in orders]
    assert_close(plackett_luce_loss(FOUR.double(), ranking), -torch.logsumexp(torch.stack(each), 0))


def test_answers_that_nobody_ranked_count_nowhere() -> None:
    assert ranked_pairs([[2], [0]]) == [(2, 0, 1.0)]
    scores = FOUR.clone().requires_grad_()
    plackett_luce_loss(scores, [[2], [0]]).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None and scores.grad[[1, 3]].tolist() == [0, 0] and float(scores.grad[0]) > 0


def test_a_tie_too_large_to_sum_over_is_refused() -> None:
    with pytest.raises(ValueError, match="a tie of 9 answers, more than 8"):
        plackett_luce_loss(torch.zeros(9), [list(range(MAX_TIED + 1))])


@pytest.mark.parametrize(("noise", "margin"), [(0.1, 2.197225), (0.25, 1.098612)])
def test_the_best_margin_under_label_noise_is_f4(noise: float, margin: float) -> None:
    difference = torch.tensor([margin], requires_grad=True)
    pair_losses(difference, torch.zeros(1), torch.ones(1), torch.zeros(1), noise).sum().backward()  # type: ignore[no-untyped-call]
    assert difference.grad is not None and abs(float(difference.grad)) < 1e-6
    assert smoothed(ONES, 0.0) is ONES


def test_labels_are_f6() -> None:
    scores, good = torch.tensor([2.0, 1, -1, 3, -2, 0.5]), torch.tensor([1.0, 0, 0, 1, 1, 1])
    assert float(label_losses(scores, good).mean()) == pytest.approx(0.733841, abs=1e-6)


def test_a_score_costs_its_squared_error() -> None:
    assert score_losses(torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0])).tolist() == [0.25, 4.0]
