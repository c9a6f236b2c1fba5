"""A reward in a Python program: a reward model, a function of one's own, a server, or a sum of several."""

import os
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Literal, overload

from trine.api.prompts import Prompt, paired, question
from trine.catalog.loading import open_hardware
from trine.catalog.rewards import open_reward
from trine.config.base import HardwareConfig
from trine.config.loading import validated
from trine.config.rewards import RewardChoice, RewardSum
from trine.records import Answer
from trine.rewards.base import Reward as Scorer
from trine.rewards.base import Scored, scored
from trine.rewards.function import FunctionReward
from trine.rewards.pairwise import PairwiseReward
from trine.runtime.errors import TrineError


def load_reward(
    reward: str | os.PathLike[str] | Callable[..., Any] | RewardSum | Mapping[str, Any] | Sequence[Any],
    *,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threads: int = 0,
    pairwise: bool = False,
    workers: int = 1,
    timeout: float | None = None,
) -> "Reward":
    """Open a reward: a reward run or model folder, a `Result`, owner/name on the hub, package.module:function, an http
    address, one that comes with Trine, a weighted sum, or a Python function of (prompts, responses) that returns one
    number per response.

        reward = trine.load_reward("runs/quickstart/reward")
        reward = trine.load_reward("parses + 0.1*length:max=100")

    `pairwise`: the function is one of (prompts, first, second) and says how far the first is better. `workers`,
    `timeout`: calls of the function at a time, and the seconds that one may take; in a sum each part has its own.
    """
    if callable(reward):
        cls = PairwiseReward if pairwise else FunctionReward
        return Reward(cls(reward, getattr(reward, "__name__", "function"), workers=workers, timeout=timeout))
    if pairwise or workers != 1 or timeout is not None:
        raise TrineError(
            "pairwise, workers and timeout are for a Python function: of a named one say pairwise:module:function and "
            "{'parts': [{'name': ..., 'workers': ..., 'timeout': ...}]}"
        )
    hardware = {"device": device, "precision": precision, "threads": threads}
    given = os.fspath(reward) if isinstance(reward, os.PathLike) else reward
    choice = validated(RewardChoice, {"reward": given}, "trine.load_reward")
    return Reward(open_reward(choice.reward, open_hardware(validated(HardwareConfig, hardware, "trine.load_reward"))))


class Reward:
    """What scores answers, a number for each, higher is better; made by `trine.load_reward`::

        reward = trine.load_reward("runs/reward")
        reward.score("2 + 2?", "4")                        # 0.71
        reward.score(["2 + 2?", "2 + 2?"], ["4", "five"])  # [0.71, -1.3]

        reward = trine.load_reward("exact_answer")
        reward.score("2 + 2?", "#### 4", answer="4")       # 1.0: fields of the prompt's record by name

    A prompt is what the user says, or a conversation, a list of {"role": ..., "content": ...}. Answers to equal prompts
    are a group. A reward that reads plain text is asked without a prompt: reward.score("A fine film."). A score is NaN
    where the reward does not apply.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lock = Lock()

    @overload
    def score(self, prompt: str) -> float: ...
    @overload
    def score(self, prompt: list[str] | tuple[str, ...]) -> list[float]: ...
    @overload
    def score(self, prompt: Prompt, response: str, **columns: Any) -> float: ...
    @overload
    def score(self, prompt: Sequence[Prompt], response: list[str] | tuple[str, ...], **columns: Any) -> list[float]: ...
    def score(self, prompt: Any, response: Any = None, **columns: Any) -> Any:
        """The score of a whole answer to a prompt, or of a plain text; of lists, one for each. Fields are lists too."""
        scores = self._scored(prompt, response, columns).scores.tolist()
        return scores[0] if isinstance(prompt if response is None else response, str) else scores

    def parts(self, prompt: Any, response: Any = None, **columns: Any) -> dict[str, Any]:
        """What each part of a sum says, by its name, unweighted: a number, or of lists of answers a list."""
        parts = self._scored(prompt, response, columns).parts
        one = isinstance(prompt if response is None else response, str)
        return {name: each.tolist()[0] if one else each.tolist() for name, each in parts.items()}

    def _scored(self, prompt: Any, response: Any, columns: Mapping[str, Any]) -> Scored:
        if response is None:
            with self._lock:
                return scored(self._scorer, [Answer((), text, query="") for text in _texts(prompt, columns)])
        one = isinstance(response, str)
        pairs = [(prompt, response)] if one else paired(prompt, response)
        fields = {name: [value] if one else value for name, value in columns.items()}
        for name, values in fields.items():
            if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(pairs):
                raise TrineError(
                    f"the field {name} is {values!r:.60} for {len(pairs)} responses; give a list of one for each"
                )
        asked = [question(each) for each, _ in pairs]
        answers = [
            Answer(
                messages, answer, columns={name: values[row] for name, values in fields.items()},
                prompt_index=asked.index(messages),
            )
            for row, (messages, (_, answer)) in enumerate(zip(asked, pairs, strict=True))
        ]  # fmt: skip
        with self._lock:
            return scored(self._scorer, answers)


def _texts(given: Any, columns: Mapping[str, Any]) -> Sequence[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise TrineError(f"without a response, what is scored is a text or a list of texts, found {given!r:.60}")
    if columns:
        raise TrineError(f"the fields {', '.join(columns)} are of a prompt's record; give a prompt and a response")
    return texts
