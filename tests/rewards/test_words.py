"""The baseline: words and pairs of words, weighted by naive Bayes, in a logistic regression."""

import numpy as np
import pytest

from trine.rewards.words import WordModel, _log_count_ratio, features_of, minimize, n_grams

GOOD = ["a good film", "good and fine", "fine film", "not bad at all"]
BAD = ["a bad film", "not good at all", "dull film", "bad and dull"]


def test_words_and_their_runs_in_small_letters_and_chinese_by_the_character() -> None:
    assert list(n_grams("It's GOOD!", 2)) == ["it's", "good", "!", "it's good", "good !"]
    assert list(n_grams("好电影", 2)) == ["好", "电", "影", "好 电", "电 影"]


def test_pairs_of_words_tell_what_single_words_cannot() -> None:
    texts, labels = [*GOOD, *BAD], [1] * 4 + [0] * 4
    pairs = WordModel.fit(texts, labels, min_count=1, penalty=0.1)
    assert pairs.labels(texts).tolist() == labels
    odds = pairs.log_odds(["not good"])
    assert odds[0, 1] < 0 < WordModel.fit(texts, labels, order=1, min_count=1).log_odds(["fine good"])[0, 1]
    assert odds[0, 0] == -odds[0, 1]


def test_the_ratio_is_that_of_smoothed_counts() -> None:
    """Wang & Manning 2012, eq. 2: r = log((p / |p|) / (q / |q|)), p and q the counts plus one."""
    ragged = features_of(["a b", "a", "b c"], {"a": 0, "b": 1, "c": 2}, 1)
    ratio = _log_count_ratio(ragged, np.array([1.0, 1.0, 0.0]), 3)
    p, q = np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 2.0])
    np.testing.assert_allclose(ratio, np.log(p / 6) - np.log(q / 5))


def test_the_fit_is_the_minimum_of_the_regularised_logistic_loss() -> None:
    texts, labels = [*GOOD, *BAD], np.array([1] * 4 + [0] * 4)
    model = WordModel.fit(texts, labels.tolist(), min_count=1, penalty=0.5)
    ragged = features_of(texts, model.vocabulary, 2)
    ratio = _log_count_ratio(ragged, labels.astype(float), len(model.vocabulary))
    presence = np.zeros((8, len(ratio)))
    presence[ragged.owners, ragged.features] = 1
    weight = np.divide(model.weights[:, 1], ratio, out=np.zeros_like(ratio), where=ratio != 0)
    slope = 1 / (1 + np.exp(-(presence @ model.weights[:, 1] + model.bias[1]))) - labels
    gradient = ratio * (presence.T @ slope) + 0.5 * weight
    assert np.abs(gradient).max() < 1e-3
    assert abs(slope.sum()) < 1e-3


def test_three_labels_are_each_learned_against_the_others() -> None:
    texts, labels = ["red wine", "red car", "blue sea", "blue sky", "green tree", "green leaf"], [0, 0, 1, 1, 2, 2]
    model = WordModel.fit(texts, labels, min_count=1)
    assert model.labels(["a red thing", "the blue thing", "green"]).tolist() == [0, 1, 2]


def test_rare_words_are_left_out_and_unknown_ones_say_nothing() -> None:
    model = WordModel.fit(["a b", "a b", "c d", "c e"], [1, 1, 0, 0], min_count=2)
    assert set(model.vocabulary) == {"a", "b", "c", "a b"}
    np.testing.assert_allclose(model.log_odds(["unseen words", ""])[:, 1], model.bias[1])


def test_one_label_is_refused() -> None:
    with pytest.raises(ValueError, match="two labels"):
        WordModel.fit(["a"], [0])


def test_l_bfgs_finds_the_minimum_of_a_badly_scaled_bowl() -> None:
    scales = np.array([1.0, 100.0, 0.01])
    found = minimize(lambda x: (float(scales @ (x - 2) ** 2), 2 * scales * (x - 2)), np.zeros(3), tolerance=1e-8)
    np.testing.assert_allclose(found, 2, atol=1e-4)
