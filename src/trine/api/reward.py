"""A reward in a Python program: a reward model, or a function of one's own."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, overload

from trine.api.prompts import Prompt, paired, question
from trine.catalog.loading import open_hardware, open_score_model
from trine.config.base import HardwareConfig
from trine.config.loading import validated
from trine.records import Message, Rollout
from trine.rewards.reward import FunctionReward, ModelReward, import_function
from trine.tokenizer.chat_format import chat_format

Answered = Sequence[tuple[tuple[Message, ...], str]]


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
    values = {"device": device, "precision": precision, "threads": threads}
    hardware = validated(HardwareConfig, values, "trine.load_reward")
    if callable(reward):
        return Reward(_of_function(FunctionReward(reward, getattr(reward, "__name__", "function"))))
    name = os.fspath(reward)
    if ":" in name and not Path(name).exists():
        return Reward(_of_function(import_function(name)))
    model, tokenizer = open_score_model(name, open_hardware(hardware))
    scorer, chat = ModelReward(model, tokenizer), chat_format(tokenizer)

    def score(answered: Answered) -> list[float]:
        rollouts = [
            Rollout(tuple(chat.prompt_ids(prompt)), tuple(chat.response_ids(response)), (), "eos")
            for prompt, response in answered
        ]
        return list(scorer.score(rollouts, lambda rollout: ("", "")).tolist())

    return Reward(score)


def _of_function(function: FunctionReward) -> Callable[[Answered], list[float]]:
    def score(answered: Answered) -> list[float]:
        texts = ["\n\n".join(message.content for message in prompt) for prompt, _ in answered]
        rollouts = [Rollout((number,), (), (), "eos") for number in range(len(answered))]
        scores = function.score(
            rollouts, lambda rollout: (texts[rollout.prompt_ids[0]], answered[rollout.prompt_ids[0]][1])
        )
        return list(scores.tolist())

    return score


class Reward:
    """What scores answers, a number for each, higher is better; made by `trine.load_reward`::

        import trine

        reward = trine.load_reward("runs/reward")
        reward.score("2 + 2?", "4")                        # 0.71
        reward.score(["2 + 2?", "2 + 2?"], ["4", "five"])  # [0.71, -1.3]

    A prompt is what the user says, or a conversation, a list of {"role": ..., "content": ...}.
    """

    def __init__(self, scores: Callable[[Answered], list[float]]) -> None:
        self._scores = scores
        self._lock = Lock()

    @overload
    def score(self, prompt: Prompt, response: str) -> float: ...
    @overload
    def score(self, prompt: Sequence[Prompt], response: list[str] | tuple[str, ...]) -> list[float]: ...
    def score(self, prompt: Any, response: Any) -> Any:
        """The score of a whole answer to a prompt; of lists of both, one for each."""
        many = not isinstance(response, str)
        pairs = paired(prompt, response) if many else [(prompt, response)]
        with self._lock:
            scores = self._scores([(question(each), answer) for each, answer in pairs])
        return scores if many else scores[0]
