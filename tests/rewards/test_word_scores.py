"""A reward from words: labels, scores and pairs in one convex loss, saved and opened to the bit."""

from pathlib import Path

import numpy as np
import pytest

from trine.records import Answer, Message
from trine.rewards.word_reward import WordReward
from trine.rewards.word_scores import WordScorer, WordTargets
from trine.rewards.words import WordModel
from trine.runtime.errors import TrineError

GOOD = ["a good film", "good and fine", "fine film", "not bad at all"]
BAD = ["a bad film", "not good at all", "dull film", "bad and dull"]
TEXTS = [*GOOD, *BAD]
LABELS = np.array([1.0] * 4 + [0.0] * 4)


def of_labels() -> WordTargets:
    return WordTargets(np.arange(8), LABELS, np.ones(8))


def test_labels_give_the_log_odds_of_the_classifier() -> None:
    scores = WordScorer.fit(TEXTS, of_labels(), min_count=1).score(TEXTS)
    odds = WordModel.fit(TEXTS, LABELS.astype(int).tolist(), min_count=1).log_odds(TEXTS)[:, 1]
    np.testing.assert_allclose(scores, odds, atol=1e-3)


def test_the_slope_of_all_losses_together_is_that_of_their_value() -> None:
    rng = np.random.default_rng(0)
    targets = WordTargets(
        np.array([0, 1]), np.array([1.0, 0.0]), np.array([1.0, 2.0]),
        np.array([1, 2]), np.array([0.5, -1.0]), np.array([0.7, 1.0]),
        np.array([0, 3]), np.array([2, 1]), np.array([1.0, 0.8]), np.array([0.5, 0.0]), np.array([1.0, 0.3]),
    )  # fmt: skip
    outputs = rng.normal(size=4)
    _, slopes = targets.loss(outputs)
    for place in range(4):
        step = np.eye(4)[place] * 1e-6
        rise = targets.loss(outputs + step)[0] - targets.loss(outputs - step)[0]
        assert slopes[place] == pytest.approx(rise / 2e-6, abs=1e-6)


def test_the_losses_are_the_golden_ones() -> None:
    """F1: margin .5 and a soft label of .8 of a pair; F6 in the form of labels: the logistic loss."""
    first, second = np.array([0]), np.array([1])
    d = np.log(1 / (np.exp(0.371101) - 1))  # the difference whose loss is F1's first
    outputs = np.array([d, 0.0])

    def value(probability: float, margin: float) -> float:
        return WordTargets(
            first=first, second=second, probabilities=np.array([probability]), margins=np.array([margin]),
            pair_weights=np.ones(1),
        ).loss(outputs)[0]  # fmt: skip

    assert value(1.0, 0.0) == pytest.approx(0.371101, abs=1e-6)
    assert value(1.0, 0.5) == pytest.approx(0.554355, abs=1e-6)
    assert value(0.8, 0.0) == pytest.approx(0.531101, abs=1e-6)


def test_scores_and_pairs_are_learned_by_the_same_features() -> None:
    scored = WordTargets(scored=np.arange(8), scores=np.r_[[1.0] * 4, [-1.0] * 4], score_weights=np.ones(8))
    paired = WordTargets(
        first=np.arange(4),
        second=np.arange(4, 8),
        probabilities=np.ones(4),
        margins=np.zeros(4),
        pair_weights=np.ones(4),
    )
    for targets in (scored, paired):
        found = WordScorer.fit(TEXTS, targets, min_count=1, penalty=0.1).score(TEXTS)
        assert found[:4].min() > found[4:].max()


def test_the_words_that_decided_add_up_to_the_score() -> None:
    scorer = WordScorer.fit(TEXTS, of_labels(), min_count=1)
    told = scorer.explain("Not a GOOD film, film", most=100)
    assert {name for name, _ in told} == {"not", "a", "good", "film", "a good", "good film"}
    assert abs(told[0][1]) == max(abs(weight) for _, weight in told)
    assert sum(weight for _, weight in told) + scorer.bias == pytest.approx(scorer.score(["Not a GOOD film, film"])[0])


def test_a_saved_model_scores_the_same_to_the_bit(tmp_path: Path) -> None:
    scorer = WordScorer.fit(TEXTS, of_labels(), min_count=1)
    scorer.save(tmp_path, {})
    again = WordScorer.load(tmp_path)
    assert again.score(TEXTS).tolist() == scorer.score(TEXTS).tolist()
    assert [again.score([text])[0] for text in TEXTS] == scorer.score(TEXTS).tolist()


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    WordScorer.fit(TEXTS, of_labels(), min_count=1).save(tmp_path, {})
    (tmp_path / "vocabulary.json").write_text('["good"]')
    with pytest.raises(TrineError, match="not of one model"):
        WordScorer.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(TrineError, match=r"model\.safetensors is damaged"):
        WordScorer.load(tmp_path)


def test_a_reward_of_words_reads_all_of_a_text_and_the_answer_of_a_conversation() -> None:
    reward = WordReward(WordScorer.fit(TEXTS, of_labels(), min_count=1))
    whole, parts = Answer((), "a good film", query=""), Answer((), " good film", query="a")
    talk = Answer((Message("user", "bad, dull"),), "a good film")
    assert len(set(reward.score([whole, parts, talk]).tolist())) == 1
    assert reward.explain(talk)[0][1] > 0
