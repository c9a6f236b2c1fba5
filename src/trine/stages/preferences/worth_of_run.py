"""What a trained reward model is worth, of any kind: what `trine reward` writes into done.json under `worth`."""

from collections.abc import Sequence
from typing import Any

from trine.catalog.rewards import open_reward
from trine.config.backbones import WordsConfig
from trine.config.preferences import RewardConfig
from trine.records import Judgement
from trine.rewards.base import Reward
from trine.rewards.word_reward import WordReward
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.words_reward import learn_words
from trine.stages.preferences.worth import Beside, worth
from trine.training.stage_run import StageRun


def worth_of(
    config: RewardConfig,
    stage: StageRun,
    reward: Reward,
    held_out: Sequence[Judged],
    train: Sequence[Judgement],
    scale: tuple[float, float] = (1.0, 0.0),
) -> dict[str, Any]:
    """`worth` of a run. `scale`: gain and offset of the scores that `reward` gives, over those of `held_out`.

    Beside it stands a model that counts words, learned from the same judgements, unless `reward` is one.
    """
    counting = isinstance(reward, WordReward) or not held_out
    words = None if counting else WordReward(learn_words(train, WordsConfig()))
    other = open_reward(config.other, stage.hardware) if config.other is not None else None
    return {"worth": worth(held_out, train, Beside(reward, *scale, words=words, other=other), config.seed)}
