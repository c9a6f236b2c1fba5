"""Batches made ahead are the batches made in line, and the thread that makes them leaves nothing behind."""

import threading
import time

import pytest

from trine.data.loading import Prefetcher


def threads() -> int:
    return sum(thread.name == "batches ahead" for thread in threading.enumerate())


def test_values_come_in_order_from_any_first_step() -> None:
    with Prefetcher(lambda step: step * step) as batches:
        assert [batches.get(step) for step in range(5, 40)] == [step * step for step in range(5, 40)]
        assert batches.get(2) == 4  # asked out of order: begun anew there


def test_no_more_are_made_than_fit() -> None:
    made: list[int] = []
    with Prefetcher(lambda step: made.append(step) or step, ahead=3) as batches:  # type: ignore[func-returns-value]
        batches.get(0)
        time.sleep(0.2)
        assert len(made) == 5  # one taken, three in the queue, one in hand


def test_an_error_comes_out_where_its_batch_is_asked_for() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("row 3 is broken")
        return step

    with Prefetcher(make) as batches:
        assert [batches.get(step) for step in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="row 3 is broken"):
            batches.get(3)
    assert threads() == 0


def test_the_thread_ends_with_the_context_and_after_the_last_step() -> None:
    with Prefetcher(lambda step: step) as batches:
        batches.get(0)
        assert threads() == 1
    assert threads() == 0
    batches = Prefetcher(lambda step: step, end=2)
    assert [batches.get(0), batches.get(1)] == [0, 1]
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == 0


def test_waiting_is_measured() -> None:
    def slow(step: int) -> int:
        time.sleep(0.03)
        return step

    with Prefetcher(slow) as batches:
        batches.get(0)
        assert batches.waiting_seconds > 0.02
        time.sleep(0.2)
        waited = batches.waiting_seconds
        batches.get(1)
        assert batches.waiting_seconds - waited < 0.02
