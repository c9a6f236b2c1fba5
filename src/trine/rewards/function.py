"""A Python function as a reward: prompts, responses and, by name, other fields of the records in; scores out."""

import difflib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from trine.config.rewards import SHIPPED
from trine.records import Answer
from trine.rewards.base import DetailedReward, Scored
from trine.rewards.calling import CallError, call_all
from trine.rewards.returned import check_count, listed, scores_of, shown
from trine.rewards.texts import SHOWN, asked
from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told
from trine.runtime.importing import import_module

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
BY_NAME: dict[str, Callable[[Answer], Any]] = {
    "messages": lambda answer: [{"role": message.role, "content": message.content} for message in answer.prompt],
    "ended": lambda answer: answer.ended,
    "token_ids": lambda answer: list(answer.response_ids),
}
"""what a function may ask for besides the fields of the records"""


class FunctionReward(DetailedReward):
    """A Python function that returns one number per response::

        def short(prompts, responses):
            return [-len(response) for response in responses]

        scores = FunctionReward(short, "short").score(answers)  # [B]

    It is called with two lists of text, `prompts` and `responses`. A parameter named `messages` is given the
    conversations as lists of {"role", "content"}, one named `ended` whether each response ended by itself, one named
    `token_ids` the ids of each response; every other parameter is given the field of that name of the prompts' records,
    a list too (`**columns` takes them all). It returns a number for each response; None where it does not apply; or a
    list of numbers, one for each of `token_ids`. `async def` is awaited.

    `needs`: fields that it reads among its `**columns`, which every record has to have. `lists` is how many it takes.
    The answers are shared out among `workers` calls at a time, each of which may take `timeout` seconds. Raises
    `TrineError` where the function cannot be called so, where a record lacks a field that is asked for, where a call
    raises or takes too long, and where it does not return what it should.
    """

    def __init__(
        self,
        function: RewardFunction,
        name: str,
        *,
        workers: int = 1,
        timeout: float | None = None,
        lists: int = 2,
        needs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.needs = needs
        self.function, self.name, self.workers, self.timeout = function, name, workers, timeout
        if not callable(function):
            raise TrineError(f"reward {name} is {shown(function)}, which is no function of {_LISTS[lists]}")
        try:
            signature = inspect.signature(function)
        except ValueError:  # some functions written in C do not tell theirs
            signature = inspect.signature(lambda prompts, responses: [])
        parameters = list(signature.parameters.values())
        by_place = [each for each in parameters if each.kind in _POSITIONAL][:lists]
        self.positional = {parameter.name for parameter in by_place}
        self.parameters = [each for each in parameters if each not in by_place and each.kind not in _UNNAMED]
        self._check_arity(signature, lists)

    def _check_arity(self, signature: inspect.Signature, lists: int) -> None:
        """The lists come by position and the rest by name: any function that cannot take these is refused."""
        named = {each.name: None for each in self.parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
        try:
            signature.bind(*[None] * lists, **named)
        except TypeError as error:
            count = {2: "two", 3: "three"}[lists]
            raise TrineError(
                f"reward {self.name} takes {signature} and is called with {count} lists, {_LISTS[lists]}, and other "
                f"fields of the prompts' records by name: {error}"
            ) from None

    def try_out(self, answers: Sequence[Answer], called_with: int = 3) -> None:
        """Raise `TrineError` now, not after hours, if a field is missing in any record or a first call goes wrong."""
        self.columns(answers)
        made_up = [each if each.response_ids else replace(each, response_ids=(0, 1, 2)) for each in answers]
        self.score(made_up[:called_with])

    def detailed(self, answers: Sequence[Answer]) -> Scored:
        """Scores [B], and where the function returns lists, those of the tokens."""
        return scores_of(self.values(answers), answers, self.name)

    def values(self, answers: Sequence[Answer]) -> list[Any]:
        """What the function returned for each answer."""
        return self.call([[asked(answer) for answer in answers], [answer.response for answer in answers]], answers)

    def call(self, lists: Sequence[Sequence[Any]], answers: Sequence[Answer]) -> list[Any]:
        """What the function returns for `lists`, which run parallel to `answers`, and for the columns of those."""
        size = -(-len(answers) // self.workers) or 1
        parts = [slice(start, min(start + size, len(answers))) for start in range(0, len(answers), size)]
        calls = [partial(self._call, [each[part] for each in lists], self.columns(answers[part])) for part in parts]
        try:
            found = call_all(calls, workers=self.workers, timeout=self.timeout)
        except CallError as error:
            raise self._failed(error, answers[parts[error.place]]) from error.__cause__
        read = [each if isinstance(each, _Read) else _read(each, size) for each in found]
        counts = [part.stop - part.start for part in parts]
        checked = [check_count(*each, count, self.name) for each, count in zip(read, counts, strict=True)]
        return [value for values in checked for value in values]

    def _call(self, lists: list[Sequence[Any]], columns: dict[str, list[Any]]) -> Any:
        """One call. What it returns is read at once, since the values may be made one by one, unless it is awaited."""
        returned = self.function(*lists, **columns)
        return returned if inspect.isawaitable(returned) else _read(returned, len(lists[0]))

    def _failed(self, error: CallError, answers: Sequence[Answer]) -> TrineError:
        """Names the first of the answers that the call was for."""
        first = f"{len(answers)} responses, the first to the prompt {asked(answers[0])[:SHOWN]!r}"
        if isinstance(error.__cause__, TrineError):  # said in words already
            return TrineError(f"reward {self.name}: {error.__cause__}; on {first}")
        if error.__cause__ is not None:
            return TrineError(f"reward {self.name} raised {told(error.__cause__)} on {first}")
        return TrineError(
            f"reward {self.name} was not done with {first}, after timeout={self.timeout:g} seconds; give it more, or "
            "more workers, which share the responses out among more calls"
        )

    def columns(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """What the function asks for by name besides prompts and responses."""
        kinds = {parameter.name: parameter.kind for parameter in self.parameters}
        names = {name for name, kind in kinds.items() if kind is not inspect.Parameter.VAR_KEYWORD}
        if inspect.Parameter.VAR_KEYWORD in kinds.values():
            # A field called as one of the lists is: that name is taken.
            names |= {name for answer in answers for name in answer.columns} - self.positional
        names |= set(self.needs)
        required = kinds.keys() | set(self.needs)
        optional = {each.name for each in self.parameters if each.default is not inspect.Parameter.empty}
        columns: dict[str, list[Any]] = {}
        for name in sorted(names):
            known = any(name in answer.columns for answer in answers)
            if name == "messages" or (name in BY_NAME and name in kinds and not known):
                columns[name] = [BY_NAME[name](answer) for answer in answers]
            elif known or name not in optional:
                columns[name] = [self._field(answer, name, required=name in required) for answer in answers]
        return columns

    def _field(self, answer: Answer, name: str, *, required: bool) -> Any:
        if required and name not in answer.columns:
            raise TrineError(
                f"reward {self.name} asks for the field {name!r}, which a prompt's record does not have "
                f"(it has {', '.join(answer.columns) or 'no others'}): {asked(answer)[:SHOWN]!r}"
            )
        return answer.columns.get(name)


class _Read(NamedTuple):
    """The values of what was returned, None where it has none in an order; and what was returned."""

    values: list[Any] | None
    returned: Any


def _read(returned: Any, count: int) -> _Read:
    return _Read(listed(returned, count), returned)


_LISTS = {2: "(prompts, responses)", 3: "(prompts, first, second)"}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNNAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def import_function(name: str, *, workers: int = 1, timeout: float | None = None) -> FunctionReward:
    """The reward `package.module:function`."""
    return FunctionReward(imported(name), name, workers=workers, timeout=timeout)


def imported(name: str) -> RewardFunction:
    """The function `package.module:function`."""
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(import_module(module_name), function_name)
    except FOREIGN_ERRORS as error:  # the module is the user's: importing it may raise anything
        meant = f"; did you mean {close[0]!r}?" if (close := difflib.get_close_matches(module_name, SHIPPED)) else ""
        raise TrineError(
            f"reward {name!r} cannot be imported: {told(error)}; write package.module:function{meant}"
        ) from None
