"""One engine, many threads: answers, failures, swaps of weights and figures, as if each thread had an engine alone."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import pytest
from torch import Tensor

from tests.engine.helpers import all_is_given_back, cache_of, naive_greedy, responses, watch_forward
from tests.tiny import random_ids, tiny_config, tiny_model, tiny_tokenizer
from trine.engine.engine import Engine
from trine.engine.runner import Chunk
from trine.engine.sampling import Constraint, Sampling
from trine.engine.worker import EngineWorker
from trine.model.transformer import Transformer
from trine.records import Rollout
from trine.runtime.errors import TrineError

T = TypeVar("T")
CONFIG = tiny_config("qwen3", context=256)
GREEDY = Sampling(6, temperature=0.0)
LONG = Sampling(60, temperature=0.0)
DEADLINE = 60.0


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(CONFIG)


def alone(model: Transformer, prompt: list[int], sampling: Sampling) -> list[int]:
    """The answer's ids from an engine of its own."""
    return list(Engine(model, rows=1).generate([prompt], [sampling])[0].response_ids)


def engine_of(model: Transformer, native: bool | None, rows: int = 4, pages: int = 64) -> Engine:
    return Engine(model, rows=rows, cache_bytes=cache_of(CONFIG, pages), native=native)


# Everything at once


Asked = tuple[list[int], Sampling]


def random_request(number: int) -> Asked:
    rng = random.Random(number)
    prompt = random_ids(rng.randint(1, 40), seed=number % 7).tolist()
    filters = {"top_k": 5} if rng.random() < 0.2 else {"top_p": 0.8} if rng.random() < 0.2 else {}
    sampling = Sampling(rng.randint(1, 16), rng.choice([0.0, 0.7, 1.0]), seed=number, eos_ids=(4, 9))
    return prompt, replace(sampling, **filters)  # type: ignore[arg-type]


def ask_some(worker: EngineWorker, numbers: Sequence[int]) -> list[tuple[Asked, Rollout | None]]:
    """Requests one after another, two at a time, some of which are cancelled (None) or streamed."""
    answers: list[tuple[Asked, Rollout | None]] = []
    for number in numbers:
        asked = random_request(number)
        future = worker.submit(*asked)
        if number % 5 == 0:
            cancelled = worker.submit(*random_request(number + 1000))
            cancelled.cancel()
        if number % 7 == 0:
            next(stream := future.stream(DEADLINE))
            stream.close()  # leaves it early
        elif number % 3 == 0:
            streamed = [token_id for part in future.stream(DEADLINE) for token_id in part]
            assert tuple(streamed) == future.result(DEADLINE).response_ids
        try:
            answers.append((asked, future.result(DEADLINE)))
        except TrineError:
            assert number % 7 == 0
            answers.append((asked, None))
    return answers


def test_eight_threads_get_what_each_request_gets_alone_on_the_weights_it_names(model: Transformer) -> None:
    """300 requests, some cancelled, while the weights change five times; compiled where that is possible."""
    models = [model, *(tiny_model(CONFIG, seed=seed) for seed in range(1, 6))]
    engine = engine_of(model, None, pages=20)
    by_name = {engine.weights_name: model}
    with EngineWorker(engine) as worker, ThreadPoolExecutor(8) as threads:
        tasks = [threads.submit(ask_some, worker, range(first, 300, 8)) for first in range(8)]
        for other in models[1:]:
            futures = [worker.submit([1, 2], GREEDY) for _ in range(8)]
            by_name[worker.swap_weights(other)] = other
            for future in futures:
                future.result(DEADLINE)
        answers = [answer for task in tasks for answer in task.result()]
    assert len(answers) == 300
    assert len(by_name) == 6
    finished = [(asked, rollout) for asked, rollout in answers if rollout is not None]
    assert len(finished) > 250
    assert len({rollout.weights for _, rollout in finished}) > 1
    engines = {name: Engine(each, rows=1) for name, each in by_name.items()}
    for (prompt, sampling), rollout in finished:
        assert responses(engines[rollout.weights].generate([prompt], [sampling])) == [rollout.response_ids]
    assert all_is_given_back(engine)


def test_generate_is_the_engines(model: Transformer, native: bool) -> None:
    prompts, sampling = [[3, 1], [4]], Sampling(9, seed=2)
    expected = engine_of(model, native).generate(prompts, sampling, samples=3)
    with EngineWorker(engine_of(model, native)) as worker:
        assert worker.generate(prompts, sampling, samples=3) == expected
        assert worker.generate([], sampling) == []


def test_log_probs_come_between_steps_and_wait_for_their_pages(model: Transformer, native: bool) -> None:
    prompts, answers = [[1, 2, 3] * 20], [[4, 5] * 20]
    expected = engine_of(model, native).log_probs(prompts, answers, 0.7)
    engine = engine_of(model, native, pages=16)
    with EngineWorker(engine) as worker:
        running = [worker.submit([number], LONG) for number in range(3)]
        assert worker.log_probs(prompts, answers, 0.7) == expected
        assert [list(each.result(DEADLINE).response_ids) for each in running] == [
            alone(model, [number], LONG) for number in range(3)
        ]
        with pytest.raises(TrineError, match="context of 256"):
            worker.log_probs([[1] * 200], [[1] * 200])
    assert all_is_given_back(engine)


# Weights


class Held:
    """A request whose callback keeps the worker's thread from its first tokens on, until it is let go."""

    def __init__(self, worker: EngineWorker) -> None:
        self.reached, self.gate = threading.Event(), threading.Event()
        self.future = worker.submit([1, 2], LONG, self._hold)
        assert self.reached.wait(DEADLINE)

    def _hold(self, new_ids: list[int]) -> None:
        self.reached.set()
        self.gate.wait(DEADLINE)

    def let_go_during(self, call: Callable[[], T]) -> T:
        """What `call` returns, which waits for the worker."""
        threading.Timer(0.2, self.gate.set).start()
        return call()


def test_running_requests_finish_on_the_old_weights_and_waiting_ones_start_on_the_new(
    model: Transformer, native: bool
) -> None:
    other = tiny_model(CONFIG, seed=1)
    with EngineWorker(engine_of(model, native, rows=1)) as worker:
        old = worker.weights_name
        running = Held(worker)
        waiting = worker.submit([1, 2], LONG)
        new = running.let_go_during(lambda: worker.swap_weights(other))
        assert running.future.done
        for future, weights, name in ((running.future, model, old), (waiting, other, new)):
            rollout = future.result(DEADLINE)
            assert (list(rollout.response_ids), rollout.weights) == (alone(weights, [1, 2], LONG), name)
        assert worker.weights_name == new


def test_without_draining_running_requests_fail_and_waiting_ones_start_on_the_new_weights(
    model: Transformer, native: bool
) -> None:
    other = tiny_model(CONFIG, seed=1)
    engine = engine_of(model, native, rows=1)
    with EngineWorker(engine) as worker:
        running, waiting = Held(worker), worker.submit([1, 2], GREEDY)
        new = running.let_go_during(lambda: worker.swap_weights(other, drain=False))
        with pytest.raises(TrineError, match="weights were swapped while this request ran"):
            running.future.result(DEADLINE)
        assert waiting.result(DEADLINE).weights == new
        assert list(waiting.result().response_ids) == naive_greedy(other, [1, 2], 6)
    assert all_is_given_back(engine)


def test_weights_of_another_shape_are_refused_and_nothing_else_fails(model: Transformer, native: bool) -> None:
    with EngineWorker(engine_of(model, native)) as worker:
        running, name = worker.submit([1, 2], LONG), worker.weights_name
        with pytest.raises(TrineError, match="model of the same shape"):
            worker.swap_weights(tiny_model(vocab_size=11))
        assert running.result(DEADLINE).weights == worker.weights_name == name


# Failures


def raise_at(count: int) -> Callable[[list[int]], None]:
    calls = iter(range(10**9))

    def on_tokens(new_ids: list[int]) -> None:
        if next(calls) == count:
            raise ValueError("as if the client had hung up")

    return on_tokens


def test_a_callback_that_raises_fails_its_own_request_only(model: Transformer, native: bool) -> None:
    engine, heard = engine_of(model, native, rows=6), list[int]()
    with EngineWorker(engine) as worker:
        fine = worker.submit([1, 2], LONG, heard.extend)
        failing = [worker.submit([3], LONG, raise_at(0)), worker.submit([1, 2], LONG, raise_at(1))]
        for future in failing:
            with pytest.raises(TrineError, match=r"on_tokens raised ValueError.*client had hung up"):
                future.result(DEADLINE)
        assert list(fine.result(DEADLINE).response_ids) == heard == alone(model, [1, 2], LONG)
        last = worker.submit([3], LONG, raise_at(0))
        with pytest.raises(TrineError, match="on_tokens"):
            last.result(DEADLINE)
    assert all_is_given_back(engine)


def test_a_failed_call_of_the_model_fails_what_it_ran_and_the_worker_goes_on(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = engine_of(model, native, rows=1), iter(range(10**9))

    def fail_first(chunks: Sequence[Chunk]) -> None:
        if next(calls) == 0:
            raise MemoryError("as if there were none left")

    watch_forward(engine, monkeypatch, fail_first)
    with EngineWorker(engine) as worker:
        first, second = worker.submit([1, 2], LONG), worker.submit([1, 2], LONG)
        with pytest.raises(TrineError, match="MemoryError"):
            first.result(DEADLINE)
        assert list(second.result(DEADLINE).response_ids) == alone(model, [1, 2], LONG)
    assert all_is_given_back(engine)


def test_what_can_never_run_is_refused_at_once(model: Transformer, native: bool) -> None:
    with EngineWorker(engine_of(model, native, pages=4)) as worker:
        running = worker.submit([1], GREEDY)
        for prompt, sampling, message in (
            ([], GREEDY, "prompt 0 is empty"),
            ([97], GREEDY, "97"),
            ([1] * 60, Sampling(20), "raise cache_bytes"),
            ([1], Sampling(5, stop_strings=("a",)), "tokenizer"),
        ):
            with pytest.raises(TrineError, match=message):
                worker.submit(prompt, sampling)
        with pytest.raises(TrineError, match="prompt 1 is empty"):
            worker.generate([[1], []], GREEDY)
        assert list(running.result(DEADLINE).response_ids) == naive_greedy(model, [1], 6)


def test_bad_and_good_constraints_from_many_threads(native: bool) -> None:
    pytest.importorskip("llguidance", reason="constrained output needs llguidance")
    tokenizer = tiny_tokenizer()
    end = tokenizer.end_of_text
    engine = Engine(tiny_model(vocab_size=tokenizer.vocab_size), tokenizer=tokenizer, native=native)
    hopeless = tuple((token_id, float("-inf")) for token_id in range(tokenizer.vocab_size))

    def ask(number: int) -> str:
        pattern = ("[ab]{1,3}", "(unclosed", "[0-9]{2}")[number % 3]
        bias = hopeless if number % 3 == 2 else ()
        sampling = Sampling(9, seed=number, eos_ids=(end,), constraint=Constraint("regex", pattern), logit_bias=bias)
        try:
            return tokenizer.decode(worker.submit([1], sampling).result(DEADLINE).response_ids[:-1])
        except TrineError as error:
            return str(error)

    with EngineWorker(engine) as worker, ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, range(30)))
    assert all(set(text) <= set("ab") and text for text in answers[::3])
    assert all("cannot be used" in text for text in answers[1::3])
    assert all("leave no token" in text for text in answers[2::3])
    assert all_is_given_back(engine)


def test_a_thread_that_ends_fails_everything_pending(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(model, native, rows=1)
    worker = EngineWorker(engine)

    def die(chunks: Sequence[Chunk]) -> None:
        raise SystemExit(3)

    with monkeypatch.context() as broken:
        watch_forward(engine, broken, die)
        futures = [worker.submit([1], GREEDY)]
        for future in futures:
            with pytest.raises(TrineError, match=r"EngineWorker|SystemExit"):
                future.result(DEADLINE)
    for call in (lambda: worker.submit([1], GREEDY), lambda: worker.log_probs([[1]], [[2]])):
        with pytest.raises(TrineError, match=r"thread of the EngineWorker ended: SystemExit\(3\)"):
            call()
    worker.close()
    assert list(engine.generate([[1]], GREEDY)[0].response_ids) == naive_greedy(model, [1], 6)
    assert all_is_given_back(engine)


def test_a_callback_that_waits_for_the_worker_is_told_so(model: Transformer, native: bool) -> None:
    with EngineWorker(engine_of(model, native)) as worker:
        other = worker.submit([1], LONG)
        for wait in (other.result, lambda: worker.generate([[1]], GREEDY), lambda: worker.swap_weights(model)):
            future = worker.submit([2], GREEDY, lambda _, wait=wait: wait())  # type: ignore[misc]
            with pytest.raises(TrineError, match="waits for the worker itself"):
                future.result(DEADLINE)
        assert other.result(DEADLINE).ended is False


# Waiting, closing, figures


def test_result_waits_no_longer_than_asked(model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, gate = engine_of(model, native), threading.Event()
    watch_forward(engine, monkeypatch, lambda _: gate.wait(DEADLINE))  # type: ignore[arg-type]
    with EngineWorker(engine) as worker:
        future = worker.submit([1, 2], GREEDY)
        with pytest.raises(TimeoutError, match="no answer within"):
            future.result(0.02)
        gate.set()
        assert list(future.result(DEADLINE).response_ids) == naive_greedy(model, [1, 2], 6)


def test_a_cancelled_request_says_so_and_gives_its_pages_back(model: Transformer, native: bool) -> None:
    engine = engine_of(model, native, rows=1)
    with EngineWorker(engine) as worker:
        running, waiting = Held(worker), worker.submit([1], GREEDY)
        waiting.cancel()
        running.future.cancel()
        running.gate.set()
        for future in (running.future, waiting):
            with pytest.raises(TrineError, match="cancelled"):
                future.result(DEADLINE)
        assert worker.generate([[1]], GREEDY)
        assert (worker.figures.waiting, worker.figures.active) == (0, 0)
    assert all_is_given_back(engine)


def test_closing_while_busy_fails_what_is_left_and_hands_the_engine_back(model: Transformer, native: bool) -> None:
    engine = engine_of(model, native, rows=2)
    worker = EngineWorker(engine)
    running = Held(worker)
    futures = [running.future, *(worker.submit([number], LONG) for number in range(1, 9))]
    with pytest.raises(TrineError, match="EngineWorker"):
        engine.generate([[1]], GREEDY)
    running.let_go_during(worker.close)
    worker.close()
    for future in futures:
        with pytest.raises(TrineError, match="closed before this was finished"):
            future.result(0)
    with pytest.raises(TrineError, match="closed"):
        worker.submit([1], GREEDY)
    assert all_is_given_back(engine)
    assert list(engine.generate([[1]], GREEDY)[0].response_ids) == naive_greedy(model, [1], 6)


def test_an_idle_worker_takes_no_time(model: Transformer, native: bool) -> None:
    with EngineWorker(engine_of(model, native)) as worker:
        worker.generate([[1]], GREEDY)
        before = time.process_time()
        threading.Event().wait(0.3)
        assert time.process_time() - before < 0.1


def test_figures(model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, gate = engine_of(model, native, rows=1, pages=16), threading.Event()
    reached = threading.Event()

    def wait_at_gate(_: Sequence[Chunk]) -> None:
        reached.set()
        gate.wait(DEADLINE)

    with EngineWorker(engine) as worker:
        fresh = worker.figures
        assert (fresh.waiting, fresh.active, fresh.free_pages, fresh.prefix_hits) == (0, 0, 16, 0)
        assert fresh.time_to_first_token == fresh.tokens_per_second == 0
        with monkeypatch.context() as held:
            watch_forward(engine, held, wait_at_gate)
            futures = [worker.submit(list(range(40)), GREEDY)]
            reached.wait(DEADLINE)
            futures += [worker.submit(list(range(40)), GREEDY) for _ in range(3)]
            assert worker.figures.waiting == 3
            gate.set()
            for future in futures:
                future.result(DEADLINE)
        worker.generate([[1]], Sampling(1))  # the figures of the last step are there when its answer is
        worker.log_probs([[1]], [[2]])
        after = worker.figures
    assert (after.waiting, after.active, after.free_pages, after.prefix_hits) == (0, 0, 16, 3 * 2)
    assert 0 < after.time_to_first_token < DEADLINE
    assert after.tokens_per_second > 0


def test_weights_may_be_a_state_of_plain_tensors(model: Transformer, native: bool) -> None:
    state: dict[str, Tensor] = {name: each.detach() for name, each in tiny_model(CONFIG, seed=3).named_parameters()}
    with EngineWorker(engine_of(model, native)) as worker:
        assert worker.swap_weights(state) == Engine(tiny_model(CONFIG, seed=3)).weights_name
