"""Several reward models as one: mean less deviation (F5), by name, and never of two units."""

from pathlib import Path

import pytest
import torch

from tests.encoders import write_encoder
from trine.catalog.rewards import open_reward
from trine.config.loading import validated
from trine.config.rewards import RewardChoice, RewardSum
from trine.records import Answer
from trine.rewards.base import scored
from trine.rewards.ensemble import MeanMinusStd, mean_minus_std
from trine.rewards.function import FunctionReward
from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError

FP32 = choose_hardware("cpu", "fp32", 1)
ANSWERS = [Answer((), text, query="") for text in ("a good film", "dull")]


def choice(reward: object) -> RewardSum:
    found = validated(RewardChoice, {"reward": reward}, "here").reward
    assert isinstance(found, RewardSum)
    return found


def test_f5_both_deviations() -> None:
    """golden.py: [1, 1.6, .4] gives 0.510102 biased, 0.4 unbiased."""
    scores = torch.tensor([[1.0], [1.6], [0.4]])
    assert float(mean_minus_std(scores)) == pytest.approx(0.510102, abs=1e-6)
    assert float(mean_minus_std(scores, biased=False)) == pytest.approx(0.4, abs=1e-6)


def test_members_are_logged_alone_and_agreement_costs_nothing() -> None:
    members = {
        name: FunctionReward(lambda prompts, responses, by=by: [by * len(each) for each in responses], name)
        for name, by in (("one", 1.0), ("two", 2.0))
    }
    found = scored(MeanMinusStd(members), ANSWERS)
    assert found.parts["one"].tolist() == [11, 4] and found.parts["two"].tolist() == [22, 8]
    assert found.scores.tolist() == [11, 4]  # 16.5 - 5.5, 6 - 2
    assert MeanMinusStd({"a": members["one"], "b": members["one"]}).score(ANSWERS).tolist() == [11, 4]
    with pytest.raises(ValueError, match="two rewards or more"):
        MeanMinusStd({"one": members["one"]})


def test_by_name_it_opens_its_members(tmp_path: Path) -> None:
    first, second = (str(write_encoder(tmp_path / name, labels=2)) for name in ("first", "second"))
    reward = open_reward(choice(f"mean_minus_std:{first},{second}"), FP32)
    alone = open_reward(first, FP32).score(ANSWERS)
    torch.testing.assert_close(reward.score(ANSWERS), alone)  # the same weights: no spread
    assert str(choice(f"mean_minus_std:{first},{second}")) == f"mean_minus_std:{first},{second}"
    unbiased = choice({"parts": [first, second], "combine": "mean_minus_std", "biased": False})
    assert not unbiased.biased


def test_the_unit_of_a_classifier_is_said_by_name_and_never_mixed(tmp_path: Path) -> None:
    folder = str(write_encoder(tmp_path / "two", labels=2))
    odds = open_reward(folder, FP32).score(ANSWERS)
    logit = open_reward(choice(f"positive_logit:{folder}"), FP32).score(ANSWERS)
    assert not torch.equal(odds, logit)
    assert torch.equal(open_reward(choice(f"0.5*positive_logit:{folder}"), FP32).score(ANSWERS), 0.5 * logit)
    with pytest.raises(TrineError, match="mixes log_odds and positive_logit"):
        choice(f"mean_minus_std:{folder},positive_logit:{folder}")
    with pytest.raises(TrineError, match="two rewards or more"):
        choice(f"mean_minus_std:{folder}")
    with pytest.raises(TrineError, match="is no classifier"):
        open_reward(choice("positive_logit:length:max=9"), FP32)
