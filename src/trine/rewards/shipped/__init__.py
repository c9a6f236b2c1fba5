"""Rewards that come with Trine, by their short names; each says in its docstring how it is cheated.

Each is a config, whose fields are its options, with a method `score` that any reward function could be:
`length:max=100` is the reward `length` with max = 100, and `regex:PATTERN` gives the text behind the colon to the first
option as it stands.
"""

from trine.config.base import Config
from trine.config.loading import validated
from trine.config.rewards import SHIPPED
from trine.config.values import Plain
from trine.rewards.function import FunctionReward
from trine.runtime.errors import TrineError
from trine.runtime.importing import import_module


def shipped_reward(
    name: str, options: dict[str, object] | None = None, *, workers: int = 1, timeout: float | None = None
) -> FunctionReward:
    """The reward called `name`, options in it included, such as `length:max=100`::

        reward = shipped_reward("length:max=2")
        scores = reward.score(answers)  # [1.0, 0.5]: "4" has one word, "It is five." three

    Raises `TrineError` for options that it does not have.
    """
    made = made_reward(name, options)
    needs = getattr(made, "needs", ())
    return FunctionReward(made.score, name, workers=workers, timeout=timeout, needs=needs)  # type: ignore[attr-defined]


def made_reward(name: str, options: dict[str, object] | None = None) -> Config:
    """The reward with its options, read and checked."""
    short, _, text = name.partition(":")
    module, _, cls_name = SHIPPED[short].partition(":")
    cls: type[Config] = getattr(import_module(module), cls_name)
    return validated(cls, _options(cls, short, text) | (options or {}), f"reward {name}")


def _options(cls: type[Config], short: str, text: str) -> dict[str, object]:
    """{option: value} of the text behind the name's colon."""
    fields = list(cls.model_fields)
    if not text:
        return {}
    if not fields:
        raise TrineError(f"reward {short} has no options: write {short}")
    if getattr(cls, "takes_text", False):
        return {fields[0]: text}
    pairs = [part.partition("=") for part in text.split(",")]
    if len(pairs) == 1 and not pairs[0][1]:
        return {fields[0]: Plain(text)}
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise TrineError(f"reward {short}:{text}: write {short}:option=value, several with commas between")
    return {key.strip(): Plain(value.strip()) for key, _, value in pairs}
