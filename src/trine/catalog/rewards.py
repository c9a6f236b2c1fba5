"""The reward that a name stands for: a reward model's folder or hub name, or `package.module:function`."""

from pathlib import Path

from trine.catalog.loading import open_score_model, open_task_model
from trine.records import Closing
from trine.rewards.base import Reward
from trine.rewards.function import import_function
from trine.rewards.model import ModelReward
from trine.rewards.task import TaskReward
from trine.runtime.device import Hardware


def open_reward(name: str, hardware: Hardware, closed: Closing | None = None) -> Reward:
    """The reward model called `name`, a classifier of `trine finetune --task`, or `package.module:function`.

    Raises `TrineError` where it is none of them.
    """
    if is_function(name):
        return import_function(name)
    task = open_task_model(name, hardware)
    return ModelReward(*open_score_model(name, hardware), closed) if task is None else TaskReward(*task)


def is_function(reward: str) -> bool:
    """Whether `reward` has the form package.module:function and is no path."""
    return ":" in reward and not Path(reward).exists()
