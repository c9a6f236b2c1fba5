"""Best of n: golden vectors B1 to B3 and F8, and what brute force and sampling say."""

from itertools import combinations

import numpy as np
import pytest

from trine.algorithms.text_best_of_n import (
    best_of_n_means,
    best_of_n_nats,
    best_of_n_weights,
    conditioning_nats,
    exact_best_of_n_nats,
    tilting_nats,
)


def test_golden_vectors_b1_to_b3() -> None:
    wanted = {1: 0.0, 2: 0.193147, 4: 0.636294, 8: 1.204442, 16: 1.835089, 64: 3.174508}
    assert {n: round(best_of_n_nats(n), 6) for n in wanted} == wanted
    assert exact_best_of_n_nats([0.5, 0.5], [0.0, 1.0], 2) == pytest.approx(0.130812, abs=1e-6)
    assert exact_best_of_n_nats([1.0], [3.0], 2) == 0.0
    scores = np.array([[0.0, 1.0, 2.0, 3.0]])
    assert best_of_n_means(scores, scores, 2)[0][0] == pytest.approx(2.333333, abs=1e-6)


def test_golden_vector_f8() -> None:
    assert [round(conditioning_nats(share), 4) for share in (0.5, 0.25, 0.1)] == [0.6931, 1.3863, 2.3026]
    assert [tilting_nats(gain) for gain in (1, 2, 3)] == [0.5, 2.0, 4.5]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_mean_is_that_over_all_sets_and_the_other_reward_sees_the_same_choice(n: int) -> None:
    generator = np.random.default_rng(n)
    scores, others = generator.standard_normal((2, 5, 7))
    ours, theirs = best_of_n_means(scores, others, n)
    for row in range(5):
        chosen = [max(each, key=lambda place: scores[row, place]) for each in combinations(range(7), n)]
        assert ours[row] == pytest.approx(np.mean([scores[row, place] for place in chosen]))
        assert theirs[row] == pytest.approx(np.mean([others[row, place] for place in chosen]))


def test_among_equal_scores_the_choice_does_not_depend_on_their_order() -> None:
    scores, others = np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([[9.0, 0.0, 0.0, 5.0]])
    for order in ([0, 1, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]):
        _, theirs = best_of_n_means(scores[:, order], others[:, order], 4)
        assert theirs[0] == pytest.approx(3.0)


def test_weights_are_shares_of_all_sets_also_of_many_samples() -> None:
    for samples, n in ((4, 1), (64, 64), (4096, 64)):
        weights = best_of_n_weights(samples, n)
        assert weights.sum() == pytest.approx(1.0)
        assert (np.diff(weights) >= 0).all()
    for n in (0, 5):
        with pytest.raises(ValueError, match=f"best of {n}"):
            best_of_n_weights(4, n)


def test_the_bound_is_met_where_no_answers_are_alike_and_repeats_lower_it() -> None:
    many = np.full(5000, 1 / 5000)
    for n in (2, 8, 64):
        assert exact_best_of_n_nats(many, np.arange(5000.0), n) == pytest.approx(best_of_n_nats(n), rel=0.02)
        assert exact_best_of_n_nats([0.4, 0.3, 0.3], [0.0, 1.0, 2.0], n) < best_of_n_nats(n)
    assert exact_best_of_n_nats([0.2, 0.8], [1.0, 1.0], 4) == 0.0  # nothing to choose by
    assert exact_best_of_n_nats([0.9, 0.1], [0.0, 1.0], 500) == pytest.approx(conditioning_nats(0.1))


def test_of_normal_scores_the_other_keeps_the_correlation_of_what_was_gained() -> None:
    generator = np.random.default_rng(5)
    scores = generator.standard_normal((400, 64))
    others = 0.6 * scores + 0.8 * generator.standard_normal((400, 64))
    for n in (4, 64):
        ours, theirs = best_of_n_means(scores, others, n)
        assert theirs.mean() / ours.mean() == pytest.approx(0.6, abs=0.05)
        assert tilting_nats(float(ours.mean())) < best_of_n_nats(n)
