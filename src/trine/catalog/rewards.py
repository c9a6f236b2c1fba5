"""The reward that a name stands for: a reward model's folder or hub name, or `package.module:function`."""

from pathlib import Path

from trine.catalog.loading import open_score_model
from trine.records import Closing
from trine.rewards.base import Reward
from trine.rewards.function import import_function
from trine.rewards.model import ModelReward
from trine.runtime.device import Hardware


def open_reward(name: str, hardware: Hardware, closed: Closing | None = None) -> Reward:
    """The reward model called `name`, or `package.module:function`. Raises `TrineError` where it is neither."""
    return import_function(name) if is_function(name) else ModelReward(*open_score_model(name, hardware), closed)


def is_function(reward: str) -> bool:
    """Whether `reward` has the form package.module:function and is no path."""
    return ":" in reward and not Path(reward).exists()
