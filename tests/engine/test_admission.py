"""2.4: who starts when memory is short: small requests pass a large one, which is passed a limited number of times."""

import random

import pytest

from tests.engine.helpers import all_is_given_back, cache_of, finish, naive_greedy
from tests.tiny import tiny_config, tiny_model
from trine.engine.admission import MAX_OVERTAKEN
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.engine.worker import EngineWorker
from trine.model.transformer import Transformer

CONFIG = tiny_config("qwen3", context=640)
SMALL, LARGE = Sampling(10, temperature=0.0), Sampling(30 * 16, temperature=0.0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(CONFIG)


def test_small_requests_start_where_a_large_one_in_front_does_not_fit(model: Transformer, native: bool) -> None:
    """2.4: 20 of 40 pages are free."""
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, 40), native=native)
    running = engine.submit([1], Sampling(20 * 16, temperature=0.0))
    engine.step()
    assert engine.pool.available == 20
    large = engine.submit([2], LARGE)
    small = [engine.submit([3, number], SMALL) for number in range(5)]
    finish(engine, small)
    assert not large.ids
    assert not running.done
    large.cancel()
    assert finish(engine, [engine.submit([2], SMALL)]) == [naive_greedy(model, [2], 10)]
    assert [request.ids for request in small] == [naive_greedy(model, [3, number], 10) for number in range(5)]


def test_a_large_request_starts_although_small_ones_keep_coming(model: Transformer, native: bool) -> None:
    """2.4: it is overtaken a limited number of times, then memory is kept for it."""
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, 40), native=native)
    small = [engine.submit([3, number], SMALL) for number in range(14)]
    engine.step()
    large, later = engine.submit([2], LARGE), list[int]()
    for number in range(400):
        small.append(engine.submit([4, number % 90], SMALL))
        engine.step()
        if large.ids:
            break
        later.append(sum(bool(request.ids) for request in small[14:]))
    assert large.ids
    assert later[-1] <= MAX_OVERTAKEN
    finish(engine, small)
    assert large.ids[:9] == naive_greedy(model, [2], 9)[: len(large.ids)]


@pytest.mark.parametrize("seed", range(3))
def test_any_requests_all_finish_and_none_is_overtaken_too_often(seed: int, model: Transformer) -> None:
    """2.4: with the tokens they get alone, whatever the order."""
    rng = random.Random(seed)
    engine = Engine(model, rows=6, cache_bytes=cache_of(CONFIG, 12))
    asked = [([rng.randrange(97) for _ in range(rng.randint(1, 90))], rng.choice((1, 4, 70))) for _ in range(40)]
    requests = [engine.submit(prompt, Sampling(budget, temperature=0.0)) for prompt, budget in asked]
    for request in rng.sample(requests, 8):
        request.cancel()
    order: list[int] = []
    while not all(request.done for request in requests):
        engine.step()
        order += [place for place, each in enumerate(requests) if each.weights and place not in order]
    for at, place in enumerate(order):
        assert sum(later > place for later in order[:at]) <= MAX_OVERTAKEN
    alone = Engine(model, rows=1)
    for (prompt, budget), request in zip(asked, requests, strict=True):
        if request.stop_reason != "cancelled":
            (expected,) = alone.generate([prompt], Sampling(budget, temperature=0.0))
            assert tuple(request.ids) == expected.response_ids
    assert all_is_given_back(engine)


def test_through_the_worker_too(model: Transformer) -> None:
    """2.4"""
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, 40))
    with EngineWorker(engine) as worker:
        futures = [worker.submit([1], Sampling(25 * 16, temperature=0.0)), worker.submit([2], LARGE)]
        small = [worker.submit([3, number], SMALL) for number in range(6)]
        for number, future in enumerate(small):
            assert list(future.result(60).response_ids) == naive_greedy(model, [3, number], 10)
        assert [len(future.result(60).response_ids) for future in futures] == [400, 480]
