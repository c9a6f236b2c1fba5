"""The reward that a name stands for, or a weighted sum of such (`config/rewards.py` has the forms of a name)."""

import difflib
from pathlib import Path

from trine.catalog.encoders import is_encoder, open_encoder
from trine.catalog.loading import open_score_model, open_task_model
from trine.catalog.locating import find_model
from trine.config.loading import nearest
from trine.config.rewards import SHIPPED, RewardPart, RewardSum, parts_of, reward_kind
from trine.records import Closing
from trine.rewards.base import Reward
from trine.rewards.endpoint import EndpointReward
from trine.rewards.ensemble import MeanMinusStd
from trine.rewards.function import import_function, imported
from trine.rewards.mixture import WeightedPart, WeightedSum
from trine.rewards.model import ModelReward
from trine.rewards.pairwise import PairwiseReward
from trine.rewards.shipped import made_reward, shipped_reward
from trine.rewards.task import TaskReward
from trine.rewards.word_reward import WordReward
from trine.rewards.word_scores import WordScorer, is_word_model
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
        rewards = {part.shown: _open(part, hardware, closed) for part in reward.parts}
        if reward.combine == "mean_minus_std":
            return MeanMinusStd(rewards, biased=reward.biased)
        summands = [WeightedPart(part.shown, rewards[part.shown], part.weight) for part in reward.parts]
        return WeightedSum(summands, normalized=reward.normalize == "group")
    return _open(parts_of(reward)[0], hardware, closed)


def _open(part: RewardPart, hardware: Hardware, closed: Closing | None) -> Reward:
    made = open_without_model(part)
    if made is not None:
        return made
    return open_model_reward(part.name, hardware, closed, positive_logit=part.unit == "positive_logit")


def open_without_model(part: RewardPart) -> Reward | None:
    """A reward that is no model, which costs nothing to open; None of a model."""
    name, kind, workers, timeout = part.name, reward_kind(part.name), part.workers, part.timeout
    if part.unit != "log_odds" and kind != "model":
        raise TrineError(f"reward {name} is no classifier, whose unit could be {part.unit}")
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


def open_model_reward(
    name: str, hardware: Hardware, closed: Closing | None = None, *, positive_logit: bool = False
) -> Reward:
    """A reward model of any kind: of Trine's own (`model`), of `transformers` (`encoder`), of words, or a classifier.

    Of a classifier of two labels the score is the log-odds of the good one, or its logit with `positive_logit`.
    """
    if difflib.get_close_matches(name, SHIPPED) and not Path(name).exists():
        raise TrineError(f"reward {name} does not exist{nearest(name, SHIPPED)}")
    folder = find_model(name)
    if is_word_model(folder):
        return WordReward(WordScorer.load(folder))
    if is_encoder(folder):
        return open_encoder(folder, hardware, positive_logit=positive_logit, closed=closed)
    task = open_task_model(name, hardware)
    if task is not None:
        return TaskReward(*task, positive_logit=positive_logit)
    return ModelReward(*open_score_model(name, hardware, positive_logit=positive_logit), closed)


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
