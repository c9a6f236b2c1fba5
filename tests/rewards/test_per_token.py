"""16.5: rewards per response or per token."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trine.records import Answer, Message
from trine.rewards.base import scored
from trine.rewards.function import FunctionReward
from trine.rewards.mixture import WeightedPart, WeightedSum
from trine.runtime.errors import TrineError

ANSWERS = [
    Answer((Message("user", "q"),), "abc", response_ids=(7, 8, 9)),
    Answer((Message("user", "q"),), "de", response_ids=(5, 6)),
]


def per_token(prompts: list[str], responses: list[str], token_ids: list[list[int]]) -> list[object]:
    return [np.array(ids) / 2 if len(ids) == 3 else tuple(ids) for ids in token_ids]


def last(prompts: list[str], responses: list[str]) -> list[float]:
    return [10.0, 20.0]


def test_a_list_for_each_response_is_a_number_for_each_of_its_tokens() -> None:
    """The score is their sum."""
    found = scored(FunctionReward(per_token, "f"), ANSWERS)
    assert found.token_scores == [[3.5, 4.0, 4.5], [5.0, 6.0]]
    assert found.scores.tolist() == [12.0, 11.0]


def test_a_number_beside_lists_is_earned_at_the_last_token() -> None:
    found = scored(FunctionReward(lambda prompts, responses: [4.0, [1, 2]], "f"), ANSWERS)
    assert found.token_scores == [[0.0, 0.0, 4.0], [1.0, 2.0]]
    assert scored(FunctionReward(last, "f"), ANSWERS).token_scores is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1.0, 2.0], r"returned \[1.0, 2.0\] \(list\) for the response 'abc' to the prompt 'q', which has 3 tokens"),
        ([], r"\[\] \(list\) for the response 'abc'"),
        ([1.0, float("nan"), 0.0], "returned nan for the response 'abc'"),
        ([1.0, None, 0.0], "None for a token of the response 'abc'"),
        ([[1.0], [1.0], [1.0]], r"returned \[1.0\] \(list\) for the response 'abc'"),
        (torch.zeros(3, 1), r"\(Tensor\) for the response 'abc'"),
    ],
)
def test_lists_of_another_length_or_of_no_numbers_are_refused(value: object, told: str) -> None:
    with pytest.raises(TrineError, match=told):
        FunctionReward(lambda prompts, responses: [value, [0, 0]], "f").score(ANSWERS)


def test_a_list_for_an_answer_whose_tokens_are_not_known_is_refused() -> None:
    """An empty list would be a 0 that nobody gave."""
    with pytest.raises(TrineError, match="has 0 tokens"):
        FunctionReward(lambda prompts, responses: [[]], "f").score([replace(ANSWERS[0], response_ids=())])


def test_a_trial_gives_made_up_token_ids() -> None:
    """Before anything is sampled there are none."""
    reward = FunctionReward(per_token, "f")
    reward.try_out([replace(answer, response_ids=()) for answer in ANSWERS])


@pytest.mark.parametrize("normalized", [False, True])
def test_in_a_sum_each_part_is_earned_where_it_says(normalized: bool) -> None:
    """Token scores add up to the score; what has no token is earned at the last one."""
    parts = [
        WeightedPart("tokens", FunctionReward(per_token, "f"), 2.0),
        WeightedPart("last", FunctionReward(last, "l")),
    ]
    found = scored(WeightedSum(parts, normalized=normalized), ANSWERS)
    assert found.token_scores is not None
    sums = [math.fsum(each) for each in found.token_scores]
    assert sums == pytest.approx(found.scores.tolist(), abs=1e-5)
    if not normalized:
        assert found.token_scores == [[7.0, 8.0, 19.0], [10.0, 32.0]]
    else:  # both tokens of one step keep their difference, in deviations of the part within its group
        deviation = 0.5**0.5 + 1e-4
        assert found.token_scores[0][0] == pytest.approx(2 * 3.5 / deviation)
