"""Calls of code that is not ours: plain or awaited, several at a time, each within a time limit.

A thread cannot be ended. One that exceeds its limit is left behind as a daemon, which does not keep the program from
ending; an awaited call is cancelled a second later. All awaited calls share one event loop, in a thread of its own,
since the clients that people keep (sessions, pools of connections) belong to the loop that they were made in.
"""

import asyncio
import inspect
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache
from threading import Thread
from typing import Any, TypeVar

from trine.runtime.foreign import FOREIGN_ERRORS

Result = TypeVar("Result")
Call = Callable[[], Result | Awaitable[Result]]


class CallError(Exception):
    """The call at `place` raised its cause, or, without one, was not done in time."""

    def __init__(self, place: int) -> None:
        super().__init__(f"call {place} failed")
        self.place = place


def call_all(calls: Sequence[Call[Result]], *, workers: int = 1, timeout: float | None = None) -> list[Result]:
    """The results of all calls, in their order, `workers` of them at a time.

    >>> call_all([lambda: 1, lambda: 2], workers=2)
    [1, 2]

    A call that returns something to be awaited is awaited. Raises `CallError` from whatever a call raises, and where
    one is not done within `timeout` seconds of its beginning. One plain call after the other, without a limit, is made
    in the caller's own thread.
    """
    if workers == 1 and timeout is None:
        return [_result(place, lambda: _finished(call(), None)) for place, call in enumerate(calls)]  # noqa: B023  (at once)
    results: dict[int, Result] = {}
    waiting, running = deque(enumerate(calls)), dict[Future[Any], tuple[int, float]]()
    while waiting or running:
        while waiting and len(running) < workers:
            place, call = waiting.popleft()
            running[_started(call, timeout)] = (place, time.monotonic() + (timeout or float("inf")))
        deadline = min(end for _, end in running.values())
        remaining = None if timeout is None else max(0.0, deadline - time.monotonic())
        done, _ = wait(running, timeout=remaining, return_when=FIRST_COMPLETED)
        for future in done:
            place, _ = running.pop(future)
            results[place] = _result(place, future.result)
        if not done:
            for future in running:
                future.cancel()
            raise CallError(min(running.values(), key=lambda each: each[1])[0])
    return [results[place] for place in range(len(calls))]


def _result(place: int, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except FOREIGN_ERRORS as error:
        raise CallError(place) from error


def _started(call: Call[Any], timeout: float | None) -> Future[Any]:
    """The call in a thread of its own."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(_finished(call(), timeout))
        except BaseException as error:  # the caller's thread raises it
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _finished(returned: Any, timeout: float | None) -> Any:
    """What was returned, awaited if it has to be."""
    if not inspect.isawaitable(returned):
        return returned
    limit = None if timeout is None else timeout + 1  # whoever waits for the call has given up by then
    return asyncio.run_coroutine_threadsafe(_awaited(returned, limit), _loop(os.getpid())).result()


async def _awaited(returned: Awaitable[Any], limit: float | None) -> Any:
    return await asyncio.wait_for(returned, limit)


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of this process; a fork has none of its parent's threads."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True, name=f"rewards of {process}").start()
    return loop
