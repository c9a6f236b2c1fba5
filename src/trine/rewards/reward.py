"""What judges a rollout. A reward model reads token ids; a Python function reads text.

Every reward is `score(rollouts, render) -> scores [B]`: one number per response, higher is better.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trine.data.packing import pad
from trine.model.heads import ScoreModel
from trine.records import Render, Rollout
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.tokenizer import Tokenizer

ROWS_AT_ONCE = 64
RewardFunction = Callable[[list[str], list[str]], Sequence[float]]


class Reward(Protocol):
    """Scores rollouts; `render` turns one into (prompt text, response text) for rewards that read text."""

    def score(self, rollouts: Sequence[Rollout], render: Render) -> Tensor:
        """fp32 scores [B] on the CPU."""
        ...


class ModelReward:
    """A reward model. It was trained on whole answers closed by an end token, so that is what it is shown.

    A response that ran out of budget is cut back to its last whole line and closed; the caller knows from
    `stop_reason` that it was.
    """

    def __init__(self, model: ScoreModel, tokenizer: Tokenizer) -> None:
        self.model = model.requires_grad_(False).eval()
        self.end_id, self.pad_id = chat_format(tokenizer).end_id, tokenizer.pad
        self.fingerprint = tokenizer.fingerprint
        self.newline_ids = frozenset(i for i, data in enumerate(tokenizer.token_bytes) if b"\n" in data)

    def check_reads(self, tokenizer: Tokenizer, longest: int, place: str) -> None:
        """Raise `TrineError` unless the ids of `tokenizer` mean the same here, and rows of `longest` tokens fit."""
        if tokenizer.fingerprint != self.fingerprint:
            raise TrineError(f"reward {place} has another tokenizer than the policy; train it from the same base model")
        context = self.model.trunk.config.context
        if longest > context:
            raise TrineError(f"reward {place} reads {context} tokens, the policy's rows have up to {longest}")

    @torch.no_grad()
    def score(self, rollouts: Sequence[Rollout], render: Render) -> Tensor:
        rows = [[*rollout.prompt_ids, *self.closed_response(rollout)] for rollout in rollouts]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores = torch.empty(len(rows))
        device = self.model.head.weight.device
        for start in range(0, len(order), ROWS_AT_ONCE):
            batch = order[start : start + ROWS_AT_ONCE]
            ids, lengths = (tensor.to(device) for tensor in pad([rows[index] for index in batch], self.pad_id))
            scores[batch] = self.model(ids, lengths - 1).cpu()
        return scores

    def closed_response(self, rollout: Rollout) -> list[int]:
        """The response's ids closed by an end token, which where the budget ran out replaces the last, cut line.

        A response of one line loses its last token instead, so that the row is never longer than it was.
        """
        ids = list(rollout.response_ids)
        if rollout.ended:
            return [*ids[:-1], self.end_id]
        ends = [place for place, token_id in enumerate(ids) if token_id in self.newline_ids and place > 0]
        return [*ids[: ends[-1] if ends else -1], self.end_id]


class FunctionReward:
    """A Python function of (prompts, responses), lists of text, that returns one number per response."""

    def __init__(self, function: RewardFunction, name: str) -> None:
        self.function, self.name = function, name

    def score(self, rollouts: Sequence[Rollout], render: Render) -> Tensor:
        texts = [render(rollout) for rollout in rollouts]
        scores = torch.tensor(
            list(self.function([prompt for prompt, _ in texts], [answer for _, answer in texts])), dtype=torch.float32
        )
        if scores.shape != (len(rollouts),) or not bool(scores.isfinite().all()):
            raise TrineError(
                f"reward {self.name} returned {len(scores)} scores for {len(rollouts)} responses, or one that is "
                "not finite; return one finite number per response"
            )
        return scores


def import_function(name: str) -> FunctionReward:
    """The reward `package.module:function`."""
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TrineError(f"reward {name!r} cannot be imported: {error}; write package.module:function") from None
    return FunctionReward(function, name)
