"""The reward that a name stands for, or a weighted sum of such (`config/rewards.py` has the forms of a name)."""

import difflib
from pathlib import Path

from trine.catalog.loading import open_score_model, open_task_model
from trine.config.loading import nearest
from trine.config.rewards import SHIPPED, RewardPart, RewardSum, parts_of, reward_kind
from trine.records import Closing
from trine.rewards.base import Reward
from trine.rewards.endpoint import EndpointReward
from trine.rewards.function import import_function, imported
from trine.rewards.mixture import WeightedPart, WeightedSum
from trine.rewards.model import ModelReward
from trine.rewards.pairwise import PairwiseReward
from trine.rewards.shipped import made_reward, shipped_reward
from trine.rewards.task import TaskReward
from trine.runtime.device import Hardware
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of, sha256_of_file
from trine.runtime.source_code import source_digest


def open_reward(reward: str | RewardSum, hardware: Hardware, closed: Closing | None = None) -> Reward:
    """A reward model, a classifier of `trine finetune --task`, a function, a server, one that comes with Trine, or a
    sum of these.

    Raises `TrineError` where the name is none of them.
    """
    if isinstance(reward, RewardSum):
        summands = [WeightedPart(part.shown, _open(part, hardware, closed), part.weight) for part in reward.parts]
        return WeightedSum(summands, normalized=reward.normalize == "group")
    return _open(parts_of(reward)[0], hardware, closed)


def _open(part: RewardPart, hardware: Hardware, closed: Closing | None) -> Reward:
    made = open_without_model(part)
    return made if made is not None else _open_model(part.name, hardware, closed)


def open_without_model(part: RewardPart) -> Reward | None:
    """A reward that is no model, which costs nothing to open; None of a model."""
    name, kind, workers, timeout = part.name, reward_kind(part.name), part.workers, part.timeout
    if part.options and kind != "shipped":
        raise TrineError(f"reward {name} takes no options; only those that come with Trine do")
    match kind:
        case "shipped":
            return shipped_reward(name, part.options, workers=workers, timeout=timeout)
        case "endpoint":
            sizes = {"workers": workers, "batch_size": part.batch_size, "retries": part.retries}
            return EndpointReward(name, timeout=timeout or 60.0, **sizes)
        case "pairwise":
            return PairwiseReward(imported(name.removeprefix("pairwise:")), name, workers=workers, timeout=timeout)
        case "function":
            return import_function(name, workers=workers, timeout=timeout)
    return None


def _open_model(name: str, hardware: Hardware, closed: Closing | None) -> Reward:
    if difflib.get_close_matches(name, SHIPPED) and not Path(name).exists():
        raise TrineError(f"reward {name} does not exist{nearest(name, SHIPPED)}")
    task = open_task_model(name, hardware)
    return ModelReward(*open_score_model(name, hardware), closed) if task is None else TaskReward(*task)


def code_fingerprint(part: RewardPart) -> str:
    """Of a reward that is no model: a function is known by its source, an address and what comes with Trine by name."""
    kind = reward_kind(part.name)
    if kind in ("function", "pairwise"):
        function = imported(part.name.removeprefix("pairwise:"))
        return source_digest(getattr(function, "__qualname__", type(function).__qualname__), function)
    if kind == "shipped":
        made = made_reward(part.name, part.options)
        files = [value for value in dict(made).values() if isinstance(value, Path)]
        return sha256_of(part.name.partition(":")[0], str(made), *map(sha256_of_file, files))
    return sha256_of(part.name)
