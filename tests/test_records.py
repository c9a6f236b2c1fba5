"""Records refuse what they cannot mean."""

import pytest

from trine.records import Answer, Judgement, Message

PROMPT = (Message("user", "Add."),)
A, B, C = (Answer(PROMPT, text) for text in "abc")


def test_a_pair_is_a_ranking_of_two() -> None:
    assert Judgement.pair(PROMPT, A, B) == Judgement(PROMPT, (A, B), ranking=((0,), (1,)))


def test_a_ranking_may_have_ties_and_leave_answers_out() -> None:
    assert Judgement(PROMPT, (A, B, C), ranking=((1, 2), (0,))).ranking == ((1, 2), (0,))
    assert Judgement(PROMPT, (A, B, C), ranking=((2,), (0,))).ranking == ((2,), (0,))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "none of them"),
        ({"label": True, "score": 1.0}, "label.*score"),
        ({"label": True}, "a label is of one answer, not of 2"),
        ({"score": 0.5}, "a score is of one answer, not of 2"),
        ({"ranking": ((0,), (0, 1))}, "once at most"),
        ({"ranking": ((0,), (2,))}, "once at most"),
        ({"ranking": ((-1,), (0,))}, "once at most"),
    ],
)
def test_what_a_judgement_cannot_mean_is_refused(said: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Judgement(PROMPT, (A, B), **said)  # type: ignore[arg-type]


def test_a_label_of_no_is_a_judgement() -> None:
    assert Judgement(PROMPT, (A,), label=False).label is False
