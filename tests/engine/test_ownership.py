"""1.14: whoever uses an engine, from whichever thread, gets right tokens or is refused before anything is wrong."""

import gc
import random
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.engine.helpers import all_is_given_back, finish, naive_greedy, watch_forward
from tests.tiny import tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.request import Request
from trine.engine.sampling import Sampling
from trine.engine.worker import EngineWorker
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

CONFIG = tiny_config("qwen3", context=256)
GREEDY = Sampling(12, temperature=0.0)
LONG = Sampling(60, temperature=0.0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(CONFIG)


@pytest.fixture
def eager_switching() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_threads(*tasks: Any) -> list[BaseException]:
    """What the tasks raise, each in a thread of its own."""
    raised: list[BaseException] = []

    def run(task: Any) -> None:
        try:
            task()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_any_calls_from_many_threads_are_right_or_refused(
    model: Transformer, native: bool, eager_switching: None
) -> None:
    """1.14: stream, step, submit, generate, log_probs, refresh and cancel by turns and at once."""
    engine = Engine(model, rows=4, native=native, prefill_tokens=16)
    scores = engine.log_probs([[1] * 20], [[2, 3]])
    wrong: list[Any] = []

    def check(found: Any, expected: Any) -> None:
        if found != expected:
            wrong.append((found, expected))

    def use(number: int) -> None:
        rng = random.Random(number)
        for _ in range(12):
            prompt = [number + 1] * rng.randint(1, 40)
            answer = naive_greedy(model, prompt, 4)
            short = Sampling(4, temperature=0.0)
            try:
                kind = rng.randrange(6)
                if kind == 0:
                    check([token for part in engine.stream(prompt, short) for token in part], answer)
                elif kind == 1:
                    check(list(engine.generate([prompt], short)[0].response_ids), answer)
                elif kind == 2:
                    request = engine.submit(prompt, short)
                    while not request.done:
                        engine.step()
                    check(request.ids, answer)
                elif kind == 3:
                    engine.refresh()
                elif kind == 4:
                    engine.submit(prompt, LONG).cancel()
                else:
                    check(engine.log_probs([[1] * 20], [[2, 3]]), scores)
            except TrineError as error:
                if not any(word in str(error) for word in ("another thread", "are running")):
                    wrong.append(error)

    raised = run_threads(*(lambda number=number: use(number) for number in range(5)))
    assert not raised
    assert not wrong
    while engine.admission.active or engine.admission.waiting:
        engine.step()
    assert all_is_given_back(engine)


def test_a_stream_of_one_thread_beside_the_steps_of_another(model: Transformer, native: bool) -> None:
    """1.14: between two `next`s another thread may have stepped: nothing is lost or said twice."""
    engine = Engine(model, native=native)
    stream = engine.stream([1, 2], LONG)
    heard = list(next(stream))
    for number in range(4):
        assert not run_threads(lambda number=number: engine.generate([[5, number]], GREEDY))
        heard += next(stream, [])
    heard += [token_id for part in stream for token_id in part]
    assert heard == naive_greedy(model, [1, 2], 60)


def test_streams_by_turns_some_dropped_are_those_of_each_alone(model: Transformer, native: bool) -> None:
    """1.14: in one thread, with requests and batches between."""
    engine, rng = Engine(model, rows=3, native=native), random.Random(0)
    streams = {number: engine.stream([number, 1], LONG) for number in range(7)}
    heard: dict[int, list[int]] = {number: [] for number in streams}
    while streams:
        number = rng.choice(sorted(streams))
        part = next(streams[number], None)
        if part is None or rng.random() < 0.02:
            del streams[number]  # finished, or dropped as it is
        else:
            heard[number] += part
        if rng.random() < 0.05:
            assert list(engine.generate([[9]], GREEDY)[0].response_ids) == naive_greedy(model, [9], 12)
    for number, ids in heard.items():
        assert ids == naive_greedy(model, [number, 1], 60)[: len(ids)]
    gc.collect()
    engine.step()
    assert all_is_given_back(engine)


def test_a_stream_is_checked_when_it_is_made_and_queued_when_it_is_read(model: Transformer, native: bool) -> None:
    """1.14: one that nobody reads costs nothing."""
    engine = Engine(model, native=native)
    with pytest.raises(TrineError, match="prompt 0 is empty"):
        engine.stream([], GREEDY)
    unread = engine.stream([1], GREEDY)
    assert not engine.admission.waiting
    del unread
    with EngineWorker(engine) as worker:
        request = worker.stream([1], LONG)._future.request
        worker.generate([[1]], GREEDY)
        assert request.stop_reason == "cancelled"


def test_a_stream_dropped_in_the_middle_of_a_step_waits_for_its_end(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.14: the garbage collector may close it at any moment, in the same thread."""
    engine = Engine(model, native=native)
    streams = [engine.stream([1, 2], LONG)]
    next(streams[0])
    watch_forward(engine, monkeypatch, lambda _: streams.clear())
    other = engine.submit([3], GREEDY)
    assert finish(engine, [other]) == [naive_greedy(model, [3], 12)]
    engine.step()
    assert all_is_given_back(engine)


def test_a_signal_handler_cannot_enter_a_step(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.14: it runs in the same thread, half-way through."""
    engine, refused = Engine(model, native=native), list[str]()

    def handle(*_: object) -> None:
        for call in (
            engine.step, engine.refresh, lambda: engine.submit([1], GREEDY), lambda: engine.generate([[1]], GREEDY),
            lambda: engine.log_probs([[1]], [[2]]), lambda: next(engine.stream([1], GREEDY)),
        ):  # fmt: skip
            with pytest.raises(TrineError, match="middle of a step") as error:
                call()
            refused.append(str(error.value))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with monkeypatch.context() as watched:
            watch_forward(engine, watched, lambda _: signal.raise_signal(signal.SIGUSR1))
            request = engine.submit([3], GREEDY)
            engine.step()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) >= 6
    assert finish(engine, [request]) == [naive_greedy(model, [3], 12)]


def test_a_change_of_weights_broken_off_is_not_generated_with(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.14: half old and half new they are nobody's; the old ones stay where nothing had begun."""
    engine = Engine(model, native=native)
    with monkeypatch.context() as broken:
        broken.setattr(engine.runner, "load", lambda weights: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.refresh()
    for call in (lambda: engine.generate([[1]], GREEDY), lambda: engine.log_probs([[1]], [[2]])):
        with pytest.raises(TrineError, match="broken off half-way; call refresh"):
            call()
    engine.refresh()
    assert list(engine.generate([[1]], GREEDY)[0].response_ids) == naive_greedy(model, [1], 12)
    for wrong in (5, {"norm.weight": 3}, {name: 5 for name, _ in model.named_parameters()}):
        with pytest.raises(TrineError):
            engine.load(wrong)  # type: ignore[arg-type]
    assert list(engine.generate([[1]], GREEDY)[0].response_ids) == naive_greedy(model, [1], 12)


def test_weights_that_do_not_fit_fail_no_running_request(model: Transformer, native: bool) -> None:
    """1.14: not even where running ones are given up for a swap."""
    with EngineWorker(Engine(model, native=native)) as worker:
        running = worker.submit([1, 2], LONG)
        with pytest.raises(TrineError, match="model of the same shape"):
            worker.swap_weights(tiny_model(vocab_size=11), drain=False)
        assert list(running.result(60).response_ids) == naive_greedy(model, [1, 2], 60)


def test_the_first_reason_to_stop_stays(eager_switching: None) -> None:
    """1.14: a request that another thread cancels as it ends has one outcome, and that one is whole."""
    for _ in range(300):
        request = Request((1,), Sampling(1), seed=0)
        assert not run_threads(request.cancel, lambda request=request: request.fail(TrineError("late")))
        reason = request.stop_reason
        request.cancel()
        assert request.stop_reason == reason
        assert (request.error is None) == (reason == "cancelled")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("no")])
def test_whatever_a_callback_raises_is_its_requests(error: BaseException, model: Transformer, native: bool) -> None:
    """1.14, 2.1: also what would end a thread."""

    def fail(_: Sequence[int]) -> None:
        raise error

    with EngineWorker(Engine(model, native=native)) as worker:
        failing, fine = worker.submit([1], GREEDY, fail), worker.submit([1, 2], LONG)
        with pytest.raises(TrineError, match=type(error).__name__):
            failing.result(60)
        assert list(fine.result(60).response_ids) == naive_greedy(model, [1, 2], 60)


def test_log_probs_of_much_let_streams_move_on(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.14, 2.3: through the worker they are read a call's tokens at a time, with a step between."""
    monkeypatch.setattr("trine.engine.log_probs.MAX_TOKENS", 64)
    engine = Engine(model, native=native)
    prompts, answers = [[1, number] for number in range(40)], [[2, 3, number] for number in range(40)]
    expected = engine.log_probs(prompts, answers)
    events: list[str] = []
    score, step = engine.log_probs_of, engine.step

    def scored(*given: Any) -> Any:
        events.append("score")
        return score(*given)

    def stepped(**given: Any) -> Any:
        events.append("step")
        return step(**given)

    monkeypatch.setattr(engine, "log_probs_of", scored)
    monkeypatch.setattr(engine, "step", stepped)
    with EngineWorker(engine) as worker:
        stream = worker.stream([1, 2], LONG)
        heard = list(next(stream))
        found = worker.log_probs(prompts, answers)
        heard += [token_id for part in stream for token_id in part]
    assert heard == naive_greedy(model, [1, 2], 60)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert events.count("score") == 3
