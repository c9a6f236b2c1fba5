"""Requests that come, go and fail at any moment: nobody else's tokens change, and no row or page is lost."""

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.helpers import (
    all_is_given_back,
    count_tokens_read,
    fail_at_call,
    finish,
    naive_greedy,
    responses,
    watch_forward,
)
from tests.tiny import ragged_prompts, random_ids, tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.sampling import Constraint, Sampling
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


def test_threads_that_use_one_engine_directly_are_told_to_share_it_through_a_worker(
    model: Transformer, native: bool
) -> None:
    engine, errors = Engine(model, rows=4, native=native), list[BaseException]()

    def stream_some(number: int) -> None:
        try:
            for seed in range(5):
                list(engine.stream([1 + number, seed], Sampling(30, seed=seed)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=stream_some, args=(number,)) for number in range(6)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(type(error) is TrineError and "EngineWorker" in str(error) for error in errors), errors
    assert list(engine.generate([[1, 2]], GREEDY)[0].response_ids) == naive_greedy(model, [1, 2], 6)
    assert all_is_given_back(engine)


def test_a_second_thread_is_refused_while_a_step_runs_and_not_afterwards(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, refused = Engine(model, native=native), list[str]()

    def use() -> None:
        for call in (
            engine.step, engine.refresh, lambda: engine.submit([1], GREEDY), lambda: engine.generate([[1]], GREEDY),
            lambda: list(engine.stream([1], GREEDY)), lambda: engine.log_probs([[1]], [[2]]),
        ):  # fmt: skip
            try:
                call()
            except TrineError as error:
                refused.append(str(error))

    def in_another_thread() -> None:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

    with monkeypatch.context() as patched:
        watch_forward(engine, patched, lambda _: in_another_thread())
        engine.generate([[1]], Sampling(1))
    assert len(refused) == 6
    assert all("EngineWorker" in message for message in refused)
    in_another_thread()
    assert len(refused) == 6


# Failures


@pytest.mark.parametrize("call", [0, 1, 2])
def test_after_a_failure_in_the_middle_of_a_batch_the_engine_works_and_all_memory_is_back(
    model: Transformer, native: bool, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, rows=3, native=native, prefill_tokens=48)
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
def test_after_a_failed_step_its_requests_fail_and_those_in_line_finish_rightly(
    model: Transformer, native: bool, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, rows=2, native=native, prefill_tokens=48)
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
        assert request.stop_reason == "failed" or request.ids == naive_greedy(model, prompt, 6)
    assert [request.stop_reason for request in requests] == ["failed", "failed", "length"]
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


def test_a_callback_that_raises_ends_its_own_batch_only(model: Transformer, native: bool) -> None:
    engine = Engine(model, rows=3, native=native)
    neighbour = engine.submit(LONG[:20], Sampling(30, temperature=0.0))
    engine.step()

    def fail(finished: int) -> None:
        raise ValueError("as if the progress bar were gone")

    with pytest.raises(ValueError, match="progress bar"):
        engine.generate([[1], [2]], Sampling(2), on_finished=fail)
    assert finish(engine, [neighbour]) == [naive_greedy(model, LONG[:20], 30)]
    assert all_is_given_back(engine)


@pytest.mark.parametrize("method", ["allowed", "accept"])
def test_a_constraint_that_raises_fails_its_own_request_only(
    model: Transformer, native: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, rows=3, native=native)
    neighbours = [engine.submit([1, 2], GREEDY), engine.submit([3], Sampling(6, top_k=1))]
    (bad,) = engine.make_requests([[4]], Sampling(6, eos_ids=(0,), top_k=1))
    bad.sampling = replace(bad.sampling, constraint=Constraint("regex", "a"))
    bad.matcher = BrokenMatcher(method)  # type: ignore[assignment]
    engine.enqueue(bad)
    assert finish(engine, [*neighbours, bad])[:2] == [naive_greedy(model, [1, 2], 6), naive_greedy(model, [3], 6)]
    assert bad.stop_reason == "failed"
    assert "as if its grammar were broken" in str(bad.error)
    assert all_is_given_back(engine)


class BrokenMatcher:
    """Raises in the one method or the other."""

    def __init__(self, method: str) -> None:
        self.method = method

    def allowed(self) -> Tensor:
        self._raise_in("allowed")
        return torch.ones(97, dtype=torch.bool)

    def accept(self, token_id: int) -> None:
        self._raise_in("accept")

    def _raise_in(self, method: str) -> None:
        if self.method == method:
            raise ValueError("as if its grammar were broken")
