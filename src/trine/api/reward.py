"""A reward in a Python program: a reward model, or a function of one's own."""

import os
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Literal, overload

from trine.api.prompts import Prompt, paired, question
from trine.catalog.loading import open_hardware
from trine.catalog.rewards import open_reward
from trine.config.base import HardwareConfig
from trine.config.loading import validated
from trine.records import Answer
from trine.rewards.base import Reward as Scorer
from trine.rewards.function import FunctionReward
from trine.runtime.errors import TrineError


def load_reward(
    reward: str | os.PathLike[str] | Callable[..., Sequence[float]],
    *,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threads: int = 0,
) -> "Reward":
    """Open a reward: a reward run or model folder, a `Result`, owner/name on the hub, package.module:function, or a
    Python function of (prompts, responses) that returns one number per response.

        reward = trine.load_reward("runs/quickstart/reward")
    """
    if callable(reward):
        return Reward(FunctionReward(reward, getattr(reward, "__name__", "function")))
    hardware = {"device": device, "precision": precision, "threads": threads}
    return Reward(
        open_reward(os.fspath(reward), open_hardware(validated(HardwareConfig, hardware, "trine.load_reward")))
    )


class Reward:
    """What scores answers, a number for each, higher is better; made by `trine.load_reward`::

        reward = trine.load_reward("runs/reward")
        reward.score("2 + 2?", "4")                        # 0.71
        reward.score(["2 + 2?", "2 + 2?"], ["4", "five"])  # [0.71, -1.3]

    A prompt is what the user says, or a conversation, a list of {"role": ..., "content": ...}. A reward that reads
    plain text is asked without one: reward.score("A fine film.").
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lock = Lock()

    @overload
    def score(self, prompt: str) -> float: ...
    @overload
    def score(self, prompt: list[str] | tuple[str, ...]) -> list[float]: ...
    @overload
    def score(self, prompt: Prompt, response: str) -> float: ...
    @overload
    def score(self, prompt: Sequence[Prompt], response: list[str] | tuple[str, ...]) -> list[float]: ...
    def score(self, prompt: Any, response: Any = None) -> Any:
        """The score of a whole answer to a prompt; of lists of both, one for each; without answers, of plain text."""
        many = not isinstance(prompt if response is None else response, str)
        if response is None:
            answers = [Answer((), text, query="") for text in _texts(prompt)]
        else:
            pairs = paired(prompt, response) if many else [(prompt, response)]
            answers = [Answer(question(each), answer) for each, answer in pairs]
        with self._lock:
            scores = self._scorer.score(answers).tolist()
        return scores if many else scores[0]


def _texts(given: Any) -> Sequence[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise TrineError(f"without a response, what is scored is a text or a list of texts, found {given!r:.60}")
    return texts
