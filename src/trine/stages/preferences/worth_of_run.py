"""What a trained reward model is worth, of any kind: what `trine reward` writes into done.json under `worth`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trine.catalog.rewards import open_reward
from trine.config.preferences import RewardConfig
from trine.records import Judgement
from trine.rewards.base import Reward
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.worth import Beside, worth
from trine.training.stage_run import StageRun


@dataclass(frozen=True)
class Trained:
    """A reward model, and held-out judgements with its scores in the unit of training.

    `gain`, `offset`: what `reward` makes of a score of that unit, gain * score + offset.
    """

    reward: Reward
    held_out: Sequence[Judged]
    gain: float = 1.0
    offset: float = 0.0


def worth_of(
    config: RewardConfig,
    stage: StageRun,
    trained: Trained,
    train: Sequence[Judgement],
    words: Reward | None = None,
) -> dict[str, Any]:
    """`worth` of a run; `words`: a model that counts words, learned from the same judgements, unless this is one."""
    other = open_reward(config.other, stage.hardware) if config.other is not None else None
    beside = Beside(trained.reward, trained.gain, trained.offset, words=words, other=other)
    return {"worth": worth(trained.held_out, train, beside, config.seed)}
