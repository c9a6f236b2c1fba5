"""Requests that come, go and fail at any moment: nobody else's tokens change, and no row or page is lost."""

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import pytest

from tests.engine.helpers import all_is_given_back, count_tokens_read, fail_at_call, finish, naive_greedy, responses
from tests.tiny import ragged_prompts, random_ids, tiny_config, tiny_model
from trine.engine import engine as engine_module
from trine.engine.engine import Engine
from trine.engine.request import Request
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

GREEDY = Sampling(6, temperature=0.0)
LONG = random_ids(100, seed=77).tolist()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(tiny_config("qwen3", context=256))


# Streams and cancelling


def test_a_streams_parts_make_the_whole_answer(model: Transformer, native: bool) -> None:
    engine = Engine(model, native=native)
    parts = list(engine.stream(LONG, Sampling(100, temperature=0.0)))
    assert all(parts)
    assert [token_id for part in parts for token_id in part] == naive_greedy(model, LONG, 100)
    assert len(parts) > 1


def test_two_streams_taken_by_turns_do_not_disturb_each_other(model: Transformer, native: bool) -> None:
    engine, prompts = Engine(model, native=native), (LONG[:20], LONG[50:90])
    streams = [engine.stream(prompt, Sampling(60, temperature=0.0)) for prompt in prompts]
    heard: list[list[int]] = [[], []]
    for _ in range(200):
        for number, stream in enumerate(streams):
            heard[number] += next(stream, [])
    assert heard == [naive_greedy(model, prompt, 60) for prompt in prompts]
    assert all_is_given_back(engine)


def test_leaving_a_stream_early_frees_its_row_and_pages(model: Transformer, native: bool) -> None:
    engine = Engine(model, rows=1, native=native)
    stream = engine.stream(LONG, Sampling(100, temperature=0.0))
    next(stream)
    assert not all_is_given_back(engine)
    stream.close()
    assert all_is_given_back(engine)
    assert list(engine.generate([[1, 2]], GREEDY)[0].response_ids) == naive_greedy(model, [1, 2], 6)


def test_a_cancelled_request_frees_its_pages_before_the_next_step_and_others_go_on(
    model: Transformer, native: bool
) -> None:
    engine = Engine(model, rows=2, native=native)
    gone, stays, waits = (engine.submit(LONG[:30], Sampling(90, temperature=0.0)) for _ in range(3))
    engine.step()
    gone.cancel()
    heard = len(gone.ids)
    assert finish(engine, [stays, waits]) == [naive_greedy(model, LONG[:30], 90)] * 2
    assert (gone.stop_reason, len(gone.ids)) == ("cancelled", heard)
    assert all_is_given_back(engine)


def test_a_request_cancelled_in_line_never_starts(model: Transformer, native: bool) -> None:
    engine = Engine(model, rows=1, native=native)
    first, second = engine.submit([1], GREEDY), engine.submit([2], GREEDY)
    second.cancel()
    finish(engine, [first, second])
    assert second.ids == []
    assert all_is_given_back(engine)


def test_cancelling_what_is_done_changes_nothing(model: Transformer, native: bool) -> None:
    engine = Engine(model, native=native)
    request = engine.submit([1], GREEDY)
    finish(engine, [request])
    request.cancel()
    assert request.stop_reason == "length"


def test_a_request_cancelled_while_others_give_their_pages_back_gives_back_its_own(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread may do at any moment."""
    engine = Engine(model, native=native)
    long, short = engine.submit(LONG, Sampling(50)), engine.submit([2], Sampling(1))
    release = engine.pool.release

    def cancel_and_release(pages: Sequence[int]) -> None:
        long.cancel()
        release(pages)

    monkeypatch.setattr(engine.pool, "release", cancel_and_release)
    finish(engine, [long, short])
    engine.step()
    assert all_is_given_back(engine)


# Threads


def test_requests_may_come_from_other_threads_while_the_engine_steps(model: Transformer, native: bool) -> None:
    engine, requests, interval = Engine(model, rows=8, native=native), list[Request](), sys.getswitchinterval()

    def submit_many() -> None:
        for number in range(400):
            requests.append(engine.submit([1 + number % 90], Sampling(1, temperature=0.0)))

    threads = [threading.Thread(target=submit_many) for _ in range(2)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            engine.step()
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    finish(engine, requests)
    expected = {first: naive_greedy(model, [first], 1) for first in range(1, 91)}
    assert [request.ids for request in requests] == [expected[each.prompt_ids[0]] for each in requests]


def test_a_request_that_comes_while_the_line_is_walked_through_is_not_lost(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment for another thread to submit, every time."""
    engine, done, threads, late = Engine(model, rows=1, native=native), Request.done.fget, [], list[Request]()

    def submit_late() -> None:
        late.append(engine.submit([5], GREEDY))

    def done_while_another_submits(request: Request) -> bool:
        if not threads:
            threads.append(threading.Thread(target=submit_late))
            threads[0].start()
            threads[0].join(timeout=0.2)  # a lock may well keep it out until the line has been walked through
        return bool(done(request))

    early = [engine.submit([1], GREEDY), engine.submit([2], GREEDY)]
    with monkeypatch.context() as patched:
        patched.setattr(Request, "done", property(done_while_another_submits))
        engine.step()
    threads[0].join()
    assert finish(engine, [*early, *late]) == [naive_greedy(model, [first], 6) for first in (1, 2, 5)]


# Failures


@pytest.mark.parametrize("call", [0, 1, 2])
def test_after_a_failure_in_the_middle_of_a_batch_the_engine_works_and_all_memory_is_back(
    model: Transformer, native: bool, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_TOKENS", 48)
    engine = Engine(model, rows=3, native=native)
    prompts = [LONG, LONG[:60], LONG[30:]]
    with monkeypatch.context() as broken:
        fail_at_call(engine, broken, call)
        with pytest.raises(MemoryError):
            engine.generate(prompts, GREEDY)
    assert all_is_given_back(engine)
    rollouts = engine.generate(prompts, GREEDY)
    assert [list(ids) for ids in responses(rollouts)] == [naive_greedy(model, prompt, 6) for prompt in prompts]


def test_after_a_failure_half_way_through_a_stream_the_same_prompt_is_answered_rightly(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, native=native)
    with monkeypatch.context() as broken:
        fail_at_call(engine, broken, 0)
        with pytest.raises(MemoryError):
            list(engine.stream(LONG, GREEDY))
    assert all_is_given_back(engine)
    assert list(engine.generate([LONG], GREEDY)[0].response_ids) == naive_greedy(model, LONG, 6)


@pytest.mark.parametrize("call", [0, 1])
def test_after_a_failed_step_every_request_is_cancelled_or_finishes_rightly(
    model: Transformer, native: bool, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_TOKENS", 48)
    engine = Engine(model, rows=2, native=native)
    prompts = [LONG[:40], LONG[5:60], LONG[50:]]
    requests = [engine.submit(prompt, GREEDY) for prompt in prompts]
    with monkeypatch.context() as broken:
        fail_at_call(engine, broken, call)
        with suppress(MemoryError):
            while True:
                engine.step()
                assert not all(request.done for request in requests)
    finish(engine, requests)
    for prompt, request in zip(prompts, requests, strict=True):
        assert request.stop_reason == "cancelled" or request.ids == naive_greedy(model, prompt, 6)
    assert all_is_given_back(engine)


@pytest.mark.parametrize("bad", [97, -1, 10**9])
def test_a_prompt_with_an_id_the_model_does_not_have_is_refused_before_it_starts(
    model: Transformer, native: bool, bad: int
) -> None:
    """Later it would take the whole batch with it."""
    engine = Engine(model, native=native)
    for refused in (lambda: engine.submit([1, bad], GREEDY), lambda: engine.generate([[1], [2, bad]], GREEDY)):
        with pytest.raises(TrineError, match=str(bad)):
            refused()
    assert all_is_given_back(engine)
    assert len(engine.generate([[1]], GREEDY)) == 1


def test_an_interrupted_batch_leaves_nothing_in_line(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, rows=2, native=native)

    def interrupt(finished: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(ragged_prompts((5, 40, 1, 17)), Sampling(8), on_finished=interrupt)
    assert all_is_given_back(engine)
    counts = count_tokens_read(engine, monkeypatch)
    engine.generate([[1, 2, 3]], Sampling(1))
    assert counts == [3]
