"""The reward that a name stands for: a reward model's folder or hub name, or `package.module:function`."""

from pathlib import Path

from trine.catalog.encoders import is_encoder, open_encoder
from trine.catalog.loading import open_score_model, open_task_model
from trine.catalog.locating import find_model
from trine.records import Closing
from trine.rewards.base import Reward
from trine.rewards.function import import_function
from trine.rewards.model import ModelReward
from trine.rewards.task import TaskReward
from trine.rewards.word_reward import WordReward
from trine.rewards.word_scores import WordScorer, is_word_model
from trine.runtime.device import Hardware


def open_reward(name: str, hardware: Hardware, closed: Closing | None = None) -> Reward:
    """The reward model called `name`, a classifier of `trine finetune --task`, or `package.module:function`.

    Raises `TrineError` where it is none of them.
    """
    return import_function(name) if is_function(name) else open_model_reward(name, hardware, closed)


def open_model_reward(
    name: str, hardware: Hardware, closed: Closing | None = None, *, positive_logit: bool = False
) -> Reward:
    """A reward model of any kind: of Trine's own (`model`), of `transformers` (`encoder`), of words, or a classifier.

    Of a classifier of two labels the score is the log-odds of the good one, or its logit with `positive_logit`.
    """
    folder = find_model(name)
    if is_word_model(folder):
        return WordReward(WordScorer.load(folder))
    if is_encoder(folder):
        return open_encoder(folder, hardware, positive_logit=positive_logit, closed=closed)
    task = open_task_model(name, hardware)
    if task is not None:
        return TaskReward(*task, positive_logit=positive_logit)
    return ModelReward(*open_score_model(name, hardware, positive_logit=positive_logit), closed)


def is_function(reward: str) -> bool:
    """Whether `reward` has the form package.module:function and is no path."""
    return ":" in reward and not Path(reward).exists()
