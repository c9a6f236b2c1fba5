"""3.7: whatever a reward function is or returns ends in scores, or in an error that names it and what it returned."""

import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trine.records import Answer, Message
from trine.rewards.function import FunctionReward, import_function
from trine.runtime.errors import TrineError

ANSWERS = [Answer((Message("user", f"question {number}"),), f"answer {number}", number == 0) for number in range(2)]


def returning(value: Any) -> FunctionReward:
    return FunctionReward(lambda prompts, responses: value() if callable(value) else value, "mine:odd")


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (None, "returned None for 2 responses"),
        (1.0, "returned 1.0 for 2 responses"),
        (3, r"returned 3 \(int\) for 2 responses"),
        ("ab", r"returned 'ab' \(str\) for 2"),
        (b"ab", r"returned b'ab' \(bytes\)"),
        ({0: 1.0, 1: 2.0}, r"\(dict\) for 2"),
        ({1.0, 2.0}, r"\(set\) for 2"),
        ([1.0], r"returned \[1.0\] \(list\), 1 values for 2"),
        ([], r"0 values for 2 responses"),
        ([1.0, 2.0, 3.0], "more than 2 values for 2 responses"),
        (lambda: repeat(1.0), "more than 2 values"),
        ([1.0, ""], r"returned '' \(str\) for the response 'answer 1' to the prompt 'question 1'"),
        (["1", "2"], r"returned '1' \(str\) for the response 'answer 0'"),
        ([0.0, float("nan")], "returned nan for the response 'answer 1'"),
        ([float("-inf"), 0.0], "returned -inf for the response 'answer 0'"),
        ([1e300, 0.0], r"returned 1e\+300 for"),
        ([10**400, 0], r"\(int\) for the response 'answer 0'"),
        ([1j, 0], r"returned 1j \(complex\) for"),
        ([[1.0], [2.0]], r"returned \[1.0\] \(list\) for"),
        (np.zeros((2, 2)), r"\(ndarray\) for the response"),
        (np.float32(1.0), r"\(float32\) for 2"),
        (torch.tensor(1.0), r"\(Tensor\) for 2"),
        (torch.tensor([1.0, float("nan")]), r"\(Tensor\) for the response 'answer 1'"),
        (lambda: (number for number in [1.0]), "1 values for 2"),
        (object, r"\(object\) for 2"),
    ],
)
def test_what_is_no_number_for_each_response_is_named(returned: Any, told: str) -> None:
    """3.7: tracebacks, after sampling."""
    with pytest.raises(TrineError, match=rf"reward mine:odd .*{told}"):
        returning(returned).score(ANSWERS)


@pytest.mark.parametrize(
    "returned",
    [
        [1.0, 0.0], (1, 0), [True, False], [np.float64(1), np.int8(0)], [np.True_, np.False_], np.array([1.0, 0.0]),
        np.array([1, 0]), torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), [torch.tensor(1.0), torch.tensor(0.0)],
        [Fraction(1), Decimal(0)], range(1, -1, -1), lambda: iter([1.0, 0.0]), lambda: map(float, "10"),
        {"a": 1.0, "b": 0.0}.values(), torch.tensor([1.0, 0.0], requires_grad=True),
    ],
)  # fmt: skip
def test_whatever_holds_a_number_for_each_response_is_taken(returned: Any) -> None:
    """3.7: lists, arrays, tensors, iterators, of any kind of number."""
    scores = returning(returned).score(ANSWERS)
    assert scores.tolist() == [1.0, 0.0] and scores.dtype == torch.float32 and not scores.requires_grad


things = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(things)
def test_anything_returned_ends_in_finite_scores_or_in_words(returned: Any) -> None:
    """3.7"""
    try:
        scores = FunctionReward(lambda prompts, responses: returned, "mine:odd").score(ANSWERS)
    except TrineError as error:
        assert "reward mine:odd returned" in str(error)
        return
    assert [value is None for value in returned] == scores.isnan().tolist() and not scores.isinf().any()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), KeyError("x"), SystemExit(0), RecursionError()]
)
def test_what_a_function_raises_is_told_with_the_line(error: BaseException) -> None:
    """3.7: at once, and while its values are taken one by one."""

    def at_once(prompts: list[str], responses: list[str]) -> Any:
        raise error

    def by_and_by(prompts: list[str], responses: list[str]) -> Any:
        yield 1.0
        raise error

    for function in (at_once, by_and_by):
        told = rf"reward mine:f raised {type(error).__name__}.*\(test_function.py, line \d+\) on 2 responses"
        with pytest.raises(TrineError, match=told):
            FunctionReward(function, "mine:f").score(ANSWERS)


class Both:
    """An object that is called."""

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        return [1.0 for _ in responses]

    def one(self, prompts: list[str]) -> list[float]:
        return [1.0]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda: [1.0], r"takes \(\) and is called with two lists"),
        (lambda responses: [1.0], r"takes \(responses\) and is called with two lists, \(prompts, responses\)"),
        (Both().one, r"takes \(prompts: list\[str\]\)"),
        (lambda *, prompts, responses: [1.0], r"takes \(\*, prompts, responses\) and is called with two lists"),
        (lambda prompts, responses, third, /: [1.0], r"takes \(prompts, responses, third, /\)"),
        (7, r"is 7 \(int\), which is no function"),
        (sys, r"is .*, which is no function of \(prompts, responses\)"),
    ],
)
def test_what_cannot_be_called_with_two_lists_is_refused_when_it_is_named(function: Any, told: str) -> None:
    """3.7: wrong arity, and no function at all, before any call."""
    with pytest.raises(TrineError, match=rf"reward mine:f {told}"):
        FunctionReward(function, "mine:f")


def varied(*lists: list[str], **columns: list[Any]) -> list[float]:
    assert len(lists) == 2 and set(columns) == {"level"}
    return [1.0 for _ in lists[1]]


@pytest.mark.parametrize(
    "function", [Both(), varied, lambda prompts, responses, *rest, level=None: [1.0] * len(responses)]
)
def test_what_can_be_called_with_them_is_called(function: Callable[..., Any]) -> None:
    """3.7"""
    answers = [Answer(one.prompt, one.response, columns={"level": 1}) for one in ANSWERS]
    assert FunctionReward(function, "mine:f").score(answers).tolist() == [1.0, 1.0]


def test_a_function_is_told_which_answers_ended_unless_a_field_has_that_name() -> None:
    """5.10: of an answer a function sees the messages, the fields of its record, and whether it ended."""
    seen: list[list[Any]] = []

    def reward(prompts: list[str], responses: list[str], ended: list[Any]) -> list[float]:
        seen.append(ended)
        return [0.0 for _ in responses]

    FunctionReward(reward, "f").score(ANSWERS)
    FunctionReward(reward, "f").score([Answer(one.prompt, one.response, columns={"ended": "late"}) for one in ANSWERS])
    assert seen == [[True, False], ["late", "late"]]


@pytest.mark.parametrize(
    "source", ["1 / 0", "def broken(:", "import no_such_thing", "raise SystemExit(0)", "x = [][1]"]
)
def test_whatever_importing_a_module_raises_is_told(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.7"""
    (tmp_path / "broken_rewards.py").write_text(source + "\ndef f(prompts, responses):\n    return [0.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_rewards", raising=False)
    with pytest.raises(
        TrineError, match=r"reward 'broken_rewards:f' cannot be imported: .*write package.module:function"
    ):
        import_function("broken_rewards:f")


def test_a_name_of_a_module_that_holds_no_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.7"""
    mine = ModuleType("held_rewards")
    mine.weight = 0.5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "held_rewards", mine)
    with pytest.raises(TrineError, match=r"reward held_rewards:weight is 0.5, which is no function"):
        import_function("held_rewards:weight")


def test_a_trial_looks_at_every_record_and_calls_for_a_few() -> None:
    """3.7: a field that only the last of a million records lacks is named before anything is sampled."""
    calls: list[int] = []

    def reward(prompts: list[str], responses: list[str], level: list[int]) -> list[float]:
        calls.append(len(responses))
        return [0.0 for _ in responses]

    answers = [Answer((Message("user", f"q{n}"),), "a", columns={"level": n}) for n in range(50)]
    FunctionReward(reward, "f").try_out(answers)
    assert calls == [3]
    with pytest.raises(TrineError, match=r"asks for the field 'level'.*'late'"):
        FunctionReward(reward, "f").try_out([*answers, Answer((Message("user", "late"),), "a")])
    assert calls == [3]
