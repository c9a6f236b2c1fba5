"""A Python function as a reward: prompts, responses and, by name, other fields of the records in; scores out."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trine.records import Answer, Message
from trine.runtime.errors import TrineError
from trine.runtime.importing import import_module

RewardFunction = Callable[..., Sequence[float]]


class FunctionReward:
    """A Python function that returns one number per response::

        def short(prompts, responses):
            return [-len(response) for response in responses]

        scores = FunctionReward(short, "short").score(answers)  # [B]

    It is called with two lists of text, `prompts` and `responses`. A parameter named `messages` is given the
    conversations as lists of {"role", "content"}; every other parameter is given the field of that name of the prompts'
    records, a list too (`**columns` takes them all). Raises `TrineError` where a record lacks a field that is asked
    for, and where the function does not return one finite number per response.
    """

    def __init__(self, function: RewardFunction, name: str) -> None:
        self.function, self.name = function, name
        parameters = list(inspect.signature(function).parameters.values())
        self.positional = {parameter.name for parameter in parameters[:2]}
        self.parameters = parameters[2:]

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]."""
        prompts = [prompt_text(answer.prompt) for answer in answers]
        responses = [answer.response for answer in answers]
        scores = torch.tensor(list(self.function(prompts, responses, **self._columns(answers))), dtype=torch.float32)
        if scores.shape != (len(answers),) or not bool(scores.isfinite().all()):
            raise TrineError(
                f"reward {self.name} returned {len(scores)} scores for {len(answers)} responses, or one that is "
                "not finite; return one finite number per response"
            )
        return scores

    def _columns(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """What the function asks for by name besides prompts and responses."""
        kinds = {parameter.name: parameter.kind for parameter in self.parameters}
        names = {name for name, kind in kinds.items() if kind not in _VARIADIC}
        if inspect.Parameter.VAR_KEYWORD in kinds.values():
            # A field called as one of the two lists is: that name is taken.
            names |= {name for answer in answers for name in answer.columns} - self.positional
        optional = {each.name for each in self.parameters if each.default is not inspect.Parameter.empty}
        columns: dict[str, list[Any]] = {}
        for name in sorted(names):
            if name == "messages":
                columns[name] = [[{"role": m.role, "content": m.content} for m in answer.prompt] for answer in answers]
            elif name in optional and not any(name in answer.columns for answer in answers):
                continue
            else:
                columns[name] = [self._field(answer, name, required=name in kinds) for answer in answers]
        return columns

    def _field(self, answer: Answer, name: str, *, required: bool) -> Any:
        if required and name not in answer.columns:
            raise TrineError(
                f"reward {self.name} asks for the field {name!r}, which a prompt's record does not have "
                f"(it has {', '.join(answer.columns) or 'no others'}): {prompt_text(answer.prompt)[:60]!r}"
            )
        return answer.columns.get(name)


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def prompt_text(messages: Sequence[Message]) -> str:
    """A conversation as text: one message as it is, several each behind its role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def import_function(name: str) -> FunctionReward:
    """The reward `package.module:function`."""
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(import_module(module_name), function_name)
        return FunctionReward(function, name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise TrineError(f"reward {name!r} cannot be imported: {error}; write package.module:function") from None
