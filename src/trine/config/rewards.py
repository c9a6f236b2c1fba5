"""What `reward` can be in a config: the name of one reward, or a weighted sum of several.

    runs/reward                                     a reward model: run or model folder, owner/name on the hub
    my_rewards:short                                a Python function of (prompts, responses)
    pairwise:my_rewards:shorter                     one that says which of two answers is better
    http://127.0.0.1:8000/score                     a server
    length:max=100                                  one that comes with Trine, with its options
    parses + 0.1*length:max=100                     a sum; parses*1 + length*0.1 says the same way round
    mean_minus_std:runs/a,runs/b,runs/c             their mean less their standard deviation
    positive_logit:runs/classifier                  of two labels the good one's logit, in place of its log-odds
    {parts: [parses, {name: length, weight: 0.1, options: {max: 100}}], normalize: group}

The last form is YAML, in a file or on the command line.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from trine.config.base import Config, ModelName, NonNegativeInt, PositiveFloat, PositiveInt
from trine.config.resumption import ByContent
from trine.config.values import AS_WRITTEN, NULLS, Plain
from trine.config.yaml_text import read_value
from trine.runtime.errors import TrineError

SHIPPED = {
    "parses": "trine.rewards.shipped.code:Parses",
    "tests": "trine.rewards.shipped.code:Tests",
    "exact_answer": "trine.rewards.shipped.answers:ExactAnswer",
    "regex": "trine.rewards.shipped.answers:Regex",
    "json_schema": "trine.rewards.shipped.answers:JsonSchema",
    "length": "trine.rewards.shipped.style:Length",
    "repetition": "trine.rewards.shipped.style:Repetition",
    "words_wanted": "trine.rewards.shipped.style:WordsWanted",
    "reasoning-gym": "trine.rewards.shipped.reasoning:ReasoningGym",
}
"""the rewards that come with Trine, and the classes of their options"""
POSITIVE_LOGIT, MEAN_MINUS_STD = "positive_logit:", "mean_minus_std:"
RewardKind = Literal["shipped", "endpoint", "pairwise", "function", "model"]
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_BEFORE = re.compile(rf"({_NUMBER})\s*\*\s*(.+)", re.DOTALL)
_BEHIND = re.compile(rf"(.+?)\s*\*\s*({_NUMBER})", re.DOTALL)
_MAPPING = re.compile(r"""\s*\{\s*["']?(?:parts|name|normalize)\b""")
_PLUS = re.compile(r"\s+\+\s+")


def reward_kind(name: str) -> RewardKind:
    """What the name of a reward says that it is.

    >>> [reward_kind(name) for name in ("length:max=9", "https://host/score", "mine:short", "runs/reward")]
    ['shipped', 'endpoint', 'function', 'model']

    A folder that holds a model or a run comes before a short name, any path before a function.
    """
    place = Path(name)
    if any((place / record).exists() for record in ("config.json", "run.json")):
        return "model"
    if name.partition(":")[0] in SHIPPED:
        return "shipped"
    if name.startswith(("http://", "https://")):
        return "endpoint"
    if name.startswith("pairwise:"):
        return "pairwise"
    return "function" if ":" in name and not place.exists() else "model"


def _name_and_weight(text: str) -> dict[str, str]:
    """What `0.1*length`, `length*0.1` and `length` say."""
    before, behind = _BEFORE.fullmatch(text.strip()), _BEHIND.fullmatch(text.strip())
    if before:
        return _name_and_weight(before[2]) | {"weight": before[1]}
    if behind and not text.strip().startswith("regex:"):  # whose pattern may end so
        return _name_and_weight(behind[1]) | {"weight": behind[2]}
    name = text.strip()
    if name.startswith(POSITIVE_LOGIT):
        return {"name": name.removeprefix(POSITIVE_LOGIT), "unit": "positive_logit"}
    return {"name": name}


class RewardPart(Config):
    """One reward of a sum."""

    name: ByContent[ModelName]
    """the reward: a run or model folder, owner/name on the hub, package.module:function (behind pairwise: one that says
    which of two answers is better), an http address, or the short name of one that comes with Trine"""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """what its scores are multiplied by; below 0 they are a price"""
    label: str | None = None
    """what it is logged as; null: its name, of a folder the last part"""
    workers: PositiveInt = 1
    """calls at a time: a function's answers are shared out among them, a server's requests sent side by side"""
    timeout: PositiveFloat | None = None
    """seconds that a call may take, after which the run stops; null: a function may take as long as it likes, a server
    60 seconds"""
    batch_size: PositiveInt = 32
    """a server: answers per request"""
    retries: NonNegativeInt = 3
    """a server: how often a request is repeated where the server cannot be reached, or answers 5xx or 429"""
    unit: Literal["log_odds", "positive_logit"] = "log_odds"
    """of a classifier of two labels: log_odds of the good one, or positive_logit, its logit alone, which is about half
    of that; positive_logit:FOLDER as a text"""
    options: dict[str, Any] = Field(default={})
    """one that comes with Trine: its options, such as {max: 100}; or behind its name, as length:max=100"""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        """A text is a name with its weight."""
        return _name_and_weight(values) if isinstance(values, str) else values

    @property
    def shown(self) -> str:
        """What it is logged as."""
        return self.label or (Path(self.name).name if reward_kind(self.name) == "model" else self.name)


class RewardSum(Config):
    """A weighted sum of rewards, each logged alone."""

    parts: tuple[RewardPart, ...]
    """the rewards, each a text (`0.1*length`) or a mapping"""
    normalize: Literal["none", "group"] = "none"
    """group: each part is normalised within the answers to one prompt before it is weighted (GDPO), so that no part
    drowns the others by the size of its numbers; needs several answers a prompt"""
    combine: Literal["sum", "mean_minus_std"] = "sum"
    """sum: of the weighted parts; mean_minus_std: the parts' mean less their standard deviation, so that what reward
    models disagree on is worth less (Coste et al. 2023); mean_minus_std:A,B,C as a text"""
    biased: bool = True
    """mean_minus_std: the deviation divides by the number of parts n; false: by n - 1"""

    @model_validator(mode="after")
    def _of_one_unit(self) -> "RewardSum":
        """An ensemble's members are compared with each other, so that they have to be of one unit."""
        if self.combine == "sum":
            return self
        if len(self.parts) < 2:
            raise ValueError("mean_minus_std is of two rewards or more")
        if len({part.unit for part in self.parts}) > 1:
            raise ValueError(
                "mean_minus_std mixes log_odds and positive_logit, which is about half of it; take one unit"
            )
        if self.normalize != "none" or any(part.weight != 1 for part in self.parts):
            raise ValueError("mean_minus_std has no weights, and normalizes nothing: leave weight and normalize out")
        return self

    @model_validator(mode="after")
    def _named_apart(self) -> "RewardSum":
        """Two parts under one name could not be told apart in the log."""
        if not self.parts:
            raise ValueError("a sum of rewards has no parts")
        names = [part.shown for part in self.parts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two parts are logged as {twice!r}: give one of them a label")
        return self

    def __str__(self) -> str:
        if self.combine == "mean_minus_std":
            return MEAN_MINUS_STD + ",".join(part.name for part in self.parts)
        return " + ".join(part.name if part.weight == 1 else f"{part.weight:g}*{part.name}" for part in self.parts)


def _read(value: Any) -> Any:
    """A name stays one; a sum, however it is written, becomes the fields of a `RewardSum`."""
    if isinstance(value, Plain) and value in NULLS:
        return None
    if isinstance(value, str) and _MAPPING.match(value):
        value = read_value(value, "reward")
    if isinstance(value, str) and value.strip().startswith(MEAN_MINUS_STD):
        names = [name.strip() for name in value.strip().removeprefix(MEAN_MINUS_STD).split(",")]
        parts = [_name_and_weight(name) | {"label": name} for name in names if name]
        return {"parts": parts, "combine": "mean_minus_std"}
    if isinstance(value, str):
        texts = _PLUS.split(value.strip())
        alone = len(texts) == 1 and not _name_and_weight(texts[0]).keys() & {"weight", "unit"}
        return value if alone else {"parts": texts}
    if isinstance(value, Mapping) and "name" in value:
        return {"parts": [value]}
    return {"parts": list(value)} if isinstance(value, Sequence) else value


def _checked(value: Any) -> Any:
    try:
        return _read(value)
    except TrineError as error:
        raise ValueError(str(error)) from None


def _form(value: Any) -> str:
    return "sum" if isinstance(value, Mapping | RewardSum) else "name"


# The sum stands in an `Annotated` of its own, so that `reward` counts as one setting, not as a config with settings.
_Reward = Annotated[Annotated[ModelName, Tag("name")] | Annotated[RewardSum, Tag("sum")], Discriminator(_form)]
RewardSetting = Annotated[_Reward, BeforeValidator(_checked), AS_WRITTEN]
OptionalReward = Annotated[_Reward | None, BeforeValidator(_checked), AS_WRITTEN]


class RewardChoice(Config):
    """A reward alone, as it is given to what is no stage."""

    reward: RewardSetting
    """a reward's name, or a sum"""


def shown_reward(value: Any) -> str:
    """A reward as a report names it, of its value in a run's record.

    >>> shown_reward("runs/reward"), shown_reward({"parts": [{"name": "parses"}, {"name": "length", "weight": 0.1}]})
    ('reward', 'parses + 0.1*length')
    """
    if isinstance(value, Mapping):
        return str(RewardSum.model_validate(value))
    return Path(value).name if reward_kind(str(value)) == "model" else str(value)


def is_reward(kind: Any) -> bool:
    """Whether a field of this type takes a reward."""
    return kind is RewardSum or any(map(is_reward, get_args(kind)))


def parts_of(reward: str | RewardSum | None) -> tuple[RewardPart, ...]:
    """The rewards of a sum; a single one is its only part, and none has none."""
    if reward is None:
        return ()
    return reward.parts if isinstance(reward, RewardSum) else (RewardPart.model_validate({"name": reward}),)
