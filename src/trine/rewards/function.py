"""A Python function as a reward: prompts, responses and, by name, other fields of the records in; scores out."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trine.records import Answer, Message
from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told
from trine.runtime.importing import import_module

FLOAT32_MAX = float(np.finfo(np.float32).max)
RewardFunction = Callable[..., Sequence[float]]


class FunctionReward:
    """A Python function that returns one number per response::

        def short(prompts, responses):
            return [-len(response) for response in responses]

        scores = FunctionReward(short, "short").score(answers)  # [B]

    It is called with two lists of text, `prompts` and `responses`. A parameter named `messages` is given the
    conversations as lists of {"role", "content"}, one named `ended` whether each response ended by itself; every other
    parameter is given the field of that name of the prompts' records, a list too (`**columns` takes them all). Raises
    `TrineError` where it cannot be called so, where a record lacks a field that is asked for, where it raises, and
    where it does not return one finite number per response.
    """

    def __init__(self, function: RewardFunction, name: str) -> None:
        self.function, self.name = function, name
        if not callable(function):
            raise TrineError(f"reward {name} is {_shown(function)}, which is no function of (prompts, responses)")
        if inspect.iscoroutinefunction(function):
            raise TrineError(f"reward {name} is asynchronous (async def), which Trine does not wait for: write def")
        try:
            signature = inspect.signature(function)
        except ValueError:  # some functions written in C do not tell theirs
            signature = inspect.signature(lambda prompts, responses: [])
        parameters = list(signature.parameters.values())
        lists = [each for each in parameters if each.kind in _POSITIONAL][:2]
        self.positional = {parameter.name for parameter in lists}
        self.parameters = [each for each in parameters if each not in lists and each.kind not in _UNNAMED]
        self._check_arity(signature)

    def _check_arity(self, signature: inspect.Signature) -> None:
        """Two lists come by position and the rest by name: any function that cannot take these is refused."""
        named = {each.name: None for each in self.parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
        try:
            signature.bind(None, None, **named)
        except TypeError as error:
            raise TrineError(
                f"reward {self.name} takes {signature} and is called with two lists, (prompts, responses), and other "
                f"fields of the prompts' records by name: {error}"
            ) from None

    def try_out(self, answers: Sequence[Answer], called_with: int = 3) -> None:
        """Raise `TrineError` now, not after hours, if a field is missing in any record or a first call goes wrong."""
        self._columns(answers)
        self.score(answers[:called_with])

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]."""
        prompts = [prompt_text(answer.prompt) for answer in answers]
        responses = [answer.response for answer in answers]
        columns = self._columns(answers)
        try:
            returned = self.function(prompts, responses, **columns)
            values = _listed(returned, len(answers))
        except FOREIGN_ERRORS as error:
            raise TrineError(f"reward {self.name} raised {told(error)} on {len(answers)} responses") from error
        if values is None or len(values) != len(answers):
            counted = "" if values is None else f", {_count(values, len(answers))} values"
            raise self._refused(f"{_shown(returned)}{counted} for {len(answers)} responses")
        return torch.tensor([self._number(value, answer) for value, answer in zip(values, answers, strict=True)])

    def _number(self, value: Any, answer: Answer) -> float:
        """One score, finite in fp32."""
        try:
            number = float(value) if hasattr(value, "__float__") and not np.ndim(value) else float("nan")
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not abs(number) <= FLOAT32_MAX:
            raise self._refused(f"{_shown(value)} for the response {answer.response[:60]!r}")
        return number

    def _refused(self, what: str) -> TrineError:
        return TrineError(f"reward {self.name} returned {what}; it has to return one finite number per response")

    def _columns(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """What the function asks for by name besides prompts and responses."""
        kinds = {parameter.name: parameter.kind for parameter in self.parameters}
        names = {name for name, kind in kinds.items() if kind is not inspect.Parameter.VAR_KEYWORD}
        if inspect.Parameter.VAR_KEYWORD in kinds.values():
            # A field called as one of the two lists is: that name is taken.
            names |= {name for answer in answers for name in answer.columns} - self.positional
        optional = {each.name for each in self.parameters if each.default is not inspect.Parameter.empty}
        columns: dict[str, list[Any]] = {}
        for name in sorted(names):
            if name == "messages":
                columns[name] = [[{"role": m.role, "content": m.content} for m in answer.prompt] for answer in answers]
            elif name == "ended" and name in kinds and not any(name in answer.columns for answer in answers):
                columns[name] = [answer.ended for answer in answers]
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


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNNAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def _listed(returned: Any, count: int) -> list[Any] | None:
    """The values of what a function returned, one too many at most; None where it has none in an order."""
    unordered = isinstance(returned, str | bytes | Mapping | Set)
    if isinstance(returned, Tensor):
        returned = returned.detach()
    if unordered or not isinstance(returned, Iterable) or (hasattr(returned, "ndim") and returned.ndim == 0):
        return None
    return list(islice(iter(returned), count + 1))


def _count(values: Sequence[Any], expected: int) -> str:
    return f"more than {expected}" if len(values) > expected else str(len(values))


def _shown(value: Any) -> str:
    """A value, shortened, with its type unless it shows."""
    return (
        reprlib.repr(value)
        if value is None or isinstance(value, float)
        else (f"{reprlib.repr(value)} ({type(value).__name__})")
    )


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
    except FOREIGN_ERRORS as error:  # the module is the user's: importing it may raise anything
        raise TrineError(f"reward {name!r} cannot be imported: {told(error)}; write package.module:function") from None
    return FunctionReward(function, name)
