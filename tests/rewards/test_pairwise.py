"""16.5: a function that says which of two is better gives each answer the share of its group that it beats."""

import pytest

from trine.records import Answer, Message
from trine.rewards.pairwise import PairwiseReward
from trine.runtime.errors import TrineError


def group(prompt: str, *responses: str, index: int = 0, **columns: str) -> list[Answer]:
    return [Answer((Message("user", prompt),), each, prompt_index=index, columns=columns) for each in responses]


def longer(prompts: list[str], first: list[str], second: list[str]) -> list[float]:
    pairs = zip(first, second, strict=True)
    return [0.5 if len(one) == len(other) else float(len(one) > len(other)) for one, other in pairs]


def test_each_answer_has_the_share_of_its_group_that_it_beats() -> None:
    """Ties half; groups are of one prompt, and may stand mixed."""
    one, two = group("p", "a", "bbb", "cc", "dd"), group("q", "x", "xx", index=1)
    scores = PairwiseReward(longer, "longer").score([one[0], two[0], *one[1:], two[1]])
    assert scores.tolist() == pytest.approx([0.0, 0.0, 1.0, 0.5, 0.5, 1.0])


def test_each_two_are_compared_once_with_their_prompt_and_columns() -> None:
    seen: list[tuple[str, str, str, str]] = []

    def watched(prompts: list[str], first: list[str], second: list[str], topic: list[str]) -> list[bool]:
        seen.extend(zip(prompts, first, second, topic, strict=True))
        return [True] * len(prompts)

    PairwiseReward(watched, "watched", workers=2).score(group("p", "a", "b", "c", topic="t"))
    assert sorted(seen) == [("p", "a", "b", "t"), ("p", "b", "c", "t"), ("p", "c", "a", "t")]


def test_a_liking_for_the_first_of_two_is_nobodys_gain() -> None:
    """Every other pair is shown the other way round."""
    first_is_best = PairwiseReward(lambda prompts, first, second: [1.0] * len(first), "first")
    assert first_is_best.score(group("p", "a", "b", "c")).tolist() == [0.5, 0.5, 0.5]


def test_none_is_a_pair_that_cannot_be_compared() -> None:
    """Left out of both answers' shares; an answer that nothing could be compared with has no score."""

    def picky(prompts: list[str], first: list[str], second: list[str]) -> list[float | None]:
        return [None if "?" in one + other else float(one > other) for one, other in zip(first, second, strict=True)]

    scores = PairwiseReward(picky, "picky").score(group("p", "a", "?", "b"))
    assert scores[0] == 0.0 and scores[1].isnan() and scores[2] == 1.0


@pytest.mark.parametrize("value", [2.0, -0.1, "first", float("nan"), [1.0]])
def test_what_is_no_share_is_refused_with_both_answers(value: object) -> None:
    with pytest.raises(TrineError, match=r"reward odd returned .* to the prompt 'p', compared with '[ab]'"):
        PairwiseReward(lambda prompts, first, second: [value] * len(first), "odd").score(group("p", "a", "b"))


def test_groups_of_one_are_refused() -> None:
    with pytest.raises(TrineError, match="sample more a prompt"):
        PairwiseReward(longer, "longer").score([*group("p", "a"), *group("q", "b", index=1)])


def test_a_function_of_two_lists_is_no_pairwise_one() -> None:
    with pytest.raises(TrineError, match=r"is called with three lists, \(prompts, first, second\)"):
        PairwiseReward(lambda prompts, responses: [0.0], "two")


def test_a_trial_compares_before_anything_is_sampled() -> None:
    def broken(prompts: list[str], first: list[str], second: list[str], topic: list[str]) -> list[float]:
        return [1.0 / 0 for _ in first]

    with pytest.raises(TrineError, match="asks for the field 'topic'"):
        PairwiseReward(broken, "b").try_out(group("p", "a"))
    with pytest.raises(TrineError, match="reward b raised ZeroDivisionError"):
        PairwiseReward(broken, "b").try_out(group("p", "a", topic="t"))
