"""16.5: a weighted sum, its parts each alone, parts that do not apply, and normalising within a prompt's group."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trine.algorithms.text_group_scores import group_moments
from trine.records import Answer, Message
from trine.rewards.base import RewardInParts, TokenReward, scored
from trine.rewards.function import FunctionReward
from trine.rewards.mixture import WeightedPart, WeightedSum, leaves
from trine.runtime.errors import TrineError

ANSWERS = [Answer((Message("user", f"q{n // 2}"),), f"a{n}", prompt_index=n // 2) for n in range(4)]


def giving(*values: float | None) -> FunctionReward:
    return FunctionReward(lambda prompts, responses: list(values[: len(responses)]), "given")


def summed(*parts: tuple[float, Sequence[float | None]], normalized: bool = False) -> WeightedSum:
    named = [WeightedPart(f"part {n}", giving(*values), weight) for n, (weight, values) in enumerate(parts)]
    return WeightedSum(named, normalized=normalized)


def test_a_sum_is_weighted_and_each_part_is_there_alone() -> None:
    """16.5: unweighted, as each part gave it."""
    reward = summed((2.0, [1, 2, 3, 4]), (-0.5, [1, 0, 1, 0]))
    assert reward.score(ANSWERS).tolist() == [1.5, 4.0, 5.5, 8.0]
    parts = reward.parts(ANSWERS)
    assert {name: each.tolist() for name, each in parts.items()} == {"part 0": [1, 2, 3, 4], "part 1": [1, 0, 1, 0]}
    assert isinstance(reward, RewardInParts) and isinstance(reward, TokenReward) and len(leaves(reward)) == 2


def test_a_part_that_does_not_apply_is_left_out_of_that_answers_sum() -> None:
    """16.5: not 0, which would be a verdict; where none applies the answer has no score."""
    found = scored(summed((1.0, [1, None, 3, None]), (2.0, [10, 20, None, None])), ANSWERS)
    assert found.scores.tolist()[:3] == [21.0, 40.0, 3.0] and math.isnan(found.scores[3])


def test_parts_are_of_the_same_call_as_the_scores() -> None:
    """A server is not asked twice, and a reward with a random part does not contradict itself."""
    calls: list[int] = []

    def counted(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(len(responses))
        return [float(len(calls)) for _ in responses]

    reward = WeightedSum([WeightedPart("counted", FunctionReward(counted, "counted"))])
    assert reward.score(ANSWERS).tolist() == reward.parts(ANSWERS)["counted"].tolist() == [1.0] * 4
    assert calls == [4]
    assert reward.parts(ANSWERS[:2])["counted"].tolist() == [2.0] * 2  # of other answers nothing is known
    assert reward.score(ANSWERS[:2]).tolist() == [3.0] * 2  # a new score is a new call


def test_normalised_parts_weigh_the_same_however_large_their_numbers() -> None:
    """16.5, GDPO: A_k = (r_k - mean) / (deviation + 1e-4) within the prompt's group, then the weighted sum."""
    reward = summed((1.0, [0, 1, 0, 2]), (1.0, [5000, 1000, 7, 7]), normalized=True)
    half = 0.5 / (0.5**0.5 + 1e-4)
    first = -half + 2000 / (2000 * 2**0.5 + 1e-4)
    assert reward.score(ANSWERS).tolist() == pytest.approx([first, -first, -1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4)])
    # Summed first, the large part would decide the first group alone, and by its own sign.
    assert summed((1.0, [0, 1, 0, 2]), (1.0, [5000, 1000, 7, 7])).score(ANSWERS).argmax() == 0


def test_answers_that_a_part_does_not_apply_to_are_no_part_of_its_group() -> None:
    found = scored(summed((1.0, [1.0, None, 1.0, 3.0]), (1.0, [1, 2, None, None]), normalized=True), ANSWERS)
    root = 0.5**0.5
    assert found.scores.tolist() == pytest.approx([-root, root, -root, root], abs=1e-3)
    assert found.parts["part 0"].tolist()[0] == 1.0  # logged as it was given, not normalised


@pytest.mark.parametrize("answers", [ANSWERS[::2], ANSWERS[:1]])
def test_normalising_groups_of_one_answer_is_refused(answers: list[Answer]) -> None:
    """Every score would be 0, and the run would learn nothing without a word."""
    with pytest.raises(TrineError, match="needs several answers a prompt"):
        summed((1.0, [1, 2]), normalized=True).score(answers)


def test_equal_scores_stay_equal_whatever_they_are_rounded_to() -> None:
    """A part that likes all answers alike says nothing; its rounding errors must not become a verdict."""
    scores = torch.full((7,), 0.1)
    mean, divisor = group_moments(scores, torch.zeros(7, dtype=torch.long))
    assert ((scores.double() - mean) / divisor).abs().max() < 1e-3
    assert divisor.tolist() == pytest.approx([1e-4] * 7)


def test_groups_may_stand_in_any_order() -> None:
    values, groups = torch.tensor([5.0, 1.0, 7.0, 3.0]), torch.tensor([9, 4, 9, 4])
    mean, divisor = group_moments(values, groups)
    assert mean.tolist() == [6.0, 2.0, 6.0, 2.0] and divisor.tolist() == pytest.approx([2**0.5 + 1e-4] * 4)


class Broken:
    def score(self, answers: Sequence[Answer]) -> Tensor:
        raise TrineError("reward broken: out of order")


def test_a_part_that_fails_fails_the_sum() -> None:
    """16.5: a failure is never a 0."""
    with pytest.raises(TrineError, match="out of order"):
        WeightedSum([WeightedPart("a", giving(1, 2, 3, 4)), WeightedPart("b", Broken())]).score(ANSWERS)
