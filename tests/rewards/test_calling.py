"""16.5: functions called plainly or awaited, several at a time, within a time limit; whatever goes wrong is named."""

import asyncio
import math
import threading
import time
from functools import partial
from typing import Any

import pytest

from trine.records import Answer, Message
from trine.rewards.calling import CallError, call_all
from trine.rewards.function import FunctionReward
from trine.runtime.errors import TrineError

ANSWERS = [Answer((Message("user", f"question {number}"),), f"answer {number}") for number in range(6)]


async def lengths(prompts: list[str], responses: list[str]) -> list[float]:
    await asyncio.sleep(0)
    return [float(len(response)) for response in responses]


class Awaited:
    async def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        return await lengths(prompts, responses)


@pytest.mark.parametrize("function", [lengths, Awaited(), partial(lengths)])
@pytest.mark.parametrize(("workers", "timeout"), [(1, None), (1, 30.0), (3, None), (4, 30.0), (100, None)])
def test_an_async_function_is_awaited(function: Any, workers: int, timeout: float | None) -> None:
    """16.5: `async def`, an object that is one, a function that returns something to be awaited."""
    reward = FunctionReward(function, "f", workers=workers, timeout=timeout)
    assert reward.score(ANSWERS).tolist() == [8.0] * 6


def test_an_async_function_is_awaited_inside_a_running_loop() -> None:
    """16.5: as in a notebook, whose thread has a loop of its own."""

    async def cell() -> list[float]:
        return FunctionReward(lengths, "f").score(ANSWERS).tolist()

    assert asyncio.run(cell()) == [8.0] * 6


def test_every_awaited_call_is_on_one_loop() -> None:
    """16.5: a session that was opened at the first call is still open at the second."""
    loops = []

    async def reward(prompts: list[str], responses: list[str]) -> list[float]:
        loops.append(asyncio.get_running_loop())
        return [0.0 for _ in responses]

    function = FunctionReward(reward, "f", workers=3)
    function.score(ANSWERS)
    function.score(ANSWERS)
    assert len(loops) == 6 and len(set(map(id, loops))) == 1 and not loops[0].is_closed()


@pytest.mark.parametrize("awaited", [False, True])
def test_workers_share_the_answers_and_keep_their_order(awaited: bool) -> None:
    """16.5: all six calls are under way at once, or the barrier would break; each is given its part of the columns."""
    barrier = threading.Barrier(6, timeout=20)

    def plain(prompts: list[str], responses: list[str], level: list[int]) -> list[float]:
        barrier.wait()
        assert len(prompts) == len(responses) == len(level) == 1
        return [float(each) for each in level]

    async def waiting(prompts: list[str], responses: list[str], level: list[int]) -> list[float]:
        return await asyncio.to_thread(plain, prompts, responses, level)

    answers = [Answer(one.prompt, one.response, columns={"level": place}) for place, one in enumerate(ANSWERS)]
    reward = FunctionReward(waiting if awaited else plain, "f", workers=6)
    assert reward.score(answers).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_one_worker_is_called_once_with_all_in_the_callers_thread() -> None:
    """16.5: as ever, where nothing is said of workers or a time limit."""
    calls = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append((threading.current_thread(), len(responses)))
        return [0.0 for _ in responses]

    FunctionReward(reward, "f").score(ANSWERS)
    assert calls == [(threading.current_thread(), 6)]


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_that_takes_too_long_stops_with_reward_and_prompt(awaited: bool, workers: int) -> None:
    """16.5: never a 0, and no waiting for it to end either."""
    ended = threading.Event()

    def slow(prompts: list[str], responses: list[str]) -> list[float]:
        if prompts[-1] == "question 5":
            ended.wait(20)
        return [0.0 for _ in responses]

    async def waiting(prompts: list[str], responses: list[str]) -> list[float]:
        return await asyncio.to_thread(slow, prompts, responses)

    reward, begun = FunctionReward(waiting if awaited else slow, "mine:f", workers=workers, timeout=0.2), time.time()
    first = "question 3" if workers == 2 else "question 0"
    with pytest.raises(TrineError, match=rf"reward mine:f was not done with . responses.*{first}.*timeout=0.2"):
        reward.score(ANSWERS)
    assert time.time() - begun < 15
    ended.set()


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_what_one_of_several_calls_raises_names_its_prompt(awaited: bool, workers: int) -> None:
    """16.5: exception."""

    def broken(prompts: list[str], responses: list[str]) -> list[float]:
        return [1 / (prompt != "question 3") for prompt in prompts]

    async def waiting(prompts: list[str], responses: list[str]) -> list[float]:
        return broken(prompts, responses)

    reward = FunctionReward(waiting if awaited else broken, "mine:f", workers=workers)
    place = r"\(test_calling.py, line \d+\)"
    named = "2 responses, the first to the prompt 'question 2'" if workers == 3 else "6 responses.*'question 0'"
    with pytest.raises(TrineError, match=f"reward mine:f raised ZeroDivisionError: .*{place} on {named}"):
        reward.score(ANSWERS)


@pytest.mark.parametrize("workers", [1, 2])
def test_none_means_that_the_reward_does_not_apply(workers: int) -> None:
    """16.5: NaN in the scores, which whoever trains leaves out; a NaN of the function's own is refused."""

    def picky(prompts: list[str], responses: list[str]) -> list[float | None]:
        return [None if prompt == "question 4" else 1.0 for prompt in prompts]

    scores = FunctionReward(picky, "f", workers=workers).score(ANSWERS).tolist()
    assert math.isnan(scores.pop(4)) and scores == [1.0] * 5
    with pytest.raises(TrineError, match="returned nan for the response 'answer 0' to the prompt 'question 0'"):
        FunctionReward(lambda prompts, responses: [float("nan")] * len(prompts), "f", workers=workers).score(ANSWERS)


def test_a_wrong_length_in_one_part_is_refused() -> None:
    """16.5: two parts whose lengths add up right are wrong all the same."""

    def shifted(prompts: list[str], responses: list[str]) -> list[float]:
        return [0.0] * (2 if prompts[0] == "question 0" else 4)

    with pytest.raises(TrineError, match="2 values for 3 responses"):
        FunctionReward(shifted, "f", workers=2).score(ANSWERS)


def test_calls_are_no_more_than_the_workers() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def call() -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return 1

    assert call_all([call] * 9, workers=3) == [1] * 9 and most[0] <= 3
    with pytest.raises(CallError) as caught:
        call_all([call, lambda: {}["x"]], workers=2)  # type: ignore[list-item]
    assert caught.value.place == 1 and isinstance(caught.value.__cause__, KeyError)
