"""What came back from a reward that is not ours, a function or an endpoint, read as scores, or refused in words.

For each answer: a number; None, which says that the reward does not apply to it (NaN in the scores); or a list of one
number for each of the answer's tokens. Anything else ends in a `TrineError` that names reward, prompt and response.
"""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trine.records import Answer
from trine.rewards.base import Scored
from trine.rewards.texts import told_answer
from trine.runtime.errors import TrineError

FLOAT32_MAX = float(np.finfo(np.float32).max)


def listed(returned: Any, count: int) -> list[Any] | None:
    """The values of what was returned, one too many at most; None where it has none in an order."""
    unordered = isinstance(returned, str | bytes | Mapping | Set)
    if isinstance(returned, Tensor):
        returned = returned.detach()
    if unordered or not isinstance(returned, Iterable) or (hasattr(returned, "ndim") and returned.ndim == 0):
        return None
    return list(islice(iter(returned), count + 1))


def check_count(values: list[Any] | None, returned: Any, count: int, name: str) -> list[Any]:
    """`values` if there is one for each answer."""
    if values is None or len(values) != count:
        counted = "" if values is None else f", {_count(values, count)} values"
        raise refused(name, f"{shown(returned)}{counted} for {count} responses")
    return values


def scores_of(values: Sequence[Any], answers: Sequence[Answer], name: str) -> Scored:
    """Scores of a value for each answer; with token scores where any of them is a list."""
    token_scores: list[list[float]] = []
    for value, answer in zip(values, answers, strict=True):
        if _is_list(value):
            token_scores.append(_of_tokens(value, answer, name))
        else:
            token_scores.append([_number(value, answer, name)])
    scores = torch.tensor([math.fsum(each) for each in token_scores])
    return Scored(scores, token_scores=_placed(token_scores, answers) if any(map(_is_list, values)) else None)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 1)


def _placed(token_scores: list[list[float]], answers: Sequence[Answer]) -> list[list[float]]:
    """Scores of whole answers among them are earned at the last token."""
    return [
        each if len(each) == len(answer.response_ids) else [0.0] * (len(answer.response_ids) - 1) + each
        for each, answer in zip(token_scores, answers, strict=True)
    ]


def _of_tokens(value: Any, answer: Answer, name: str) -> list[float]:
    if len(value) != len(answer.response_ids) or not answer.response_ids:
        raise refused(name, f"{shown(value)} for {told_answer(answer)}, which has {len(answer.response_ids)} tokens")
    numbers = [_number(each, answer, name) for each in value]
    if any(map(math.isnan, numbers)):
        raise refused(name, f"None for a token of {told_answer(answer)}")
    return numbers


def _number(value: Any, answer: Answer, name: str) -> float:
    """One score, finite in fp32; NaN of None."""
    if value is None:
        return math.nan
    try:
        number = float(value) if hasattr(value, "__float__") and not np.ndim(value) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= FLOAT32_MAX:
        raise refused(name, f"{shown(value)} for {told_answer(answer)}")
    return number


def refused(name: str, what: str) -> TrineError:
    return TrineError(
        f"reward {name} returned {what}; it has to return one finite number per response, or None where it does not "
        "apply, or a list with one number for each of the response's tokens"
    )


def shown(value: Any) -> str:
    """A value, shortened, with its type unless it shows."""
    return (
        reprlib.repr(value)
        if value is None or isinstance(value, float)
        else (f"{reprlib.repr(value)} ({type(value).__name__})")
    )


def _count(values: Sequence[Any], expected: int) -> str:
    return f"more than {expected}" if len(values) > expected else str(len(values))
