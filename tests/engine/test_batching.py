"""Many requests through few rows and little memory: each as if it were alone, nothing lost, nothing kept for ever."""

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from tests.engine.helpers import cache_of, count_tokens_read, fail_at_call, finish, naive_greedy, responses
from tests.tiny import ragged_prompts, random_ids, tiny_config, tiny_model
from trine.engine import engine as engine_module
from trine.engine.engine import Engine
from trine.engine.pages import PAGE
from trine.engine.request import Request
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

CONFIG = tiny_config("qwen3", context=256)
LENGTHS = (5, 40, 1, 17, 70, 16, 3, 33, 9, 25)
BUDGETS = (20, 3, 40, 1, 12, 33, 7, 1, 50, 16)
PROMPTS = ragged_prompts(LENGTHS)
SETTINGS = [Sampling(budget, temperature=0.8, seed=number, eos_ids=(4, 9)) for number, budget in enumerate(BUDGETS)]
GREEDY = Sampling(6, temperature=0.0)
LONG = random_ids(100, seed=77).tolist()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(CONFIG)


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[list[int]]:
    """Each request's ids when it has an engine to itself."""
    return [
        list(Engine(model, rows=1, native=False).generate([prompt], [sampling])[0].response_ids)
        for prompt, sampling in zip(PROMPTS, SETTINGS, strict=True)
    ]


def all_is_given_back(engine: Engine) -> bool:
    return engine.pool.available == engine.pool.pages


# Rows and memory


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 64])
def test_ragged_requests_through_few_rows_get_the_tokens_they_get_alone(
    model: Transformer, alone: list[list[int]], rows: int, native: bool
) -> None:
    engine = Engine(model, rows=rows, native=native)
    assert [list(ids) for ids in responses(engine.generate(PROMPTS, SETTINGS))] == alone
    assert all_is_given_back(engine)


def test_a_row_that_ends_makes_room_at_once(model: Transformer, native: bool) -> None:
    """One long answer beside many short ones through two rows: nobody waits for the long one."""
    engine = Engine(model, rows=2, native=native)
    long = engine.submit([1], Sampling(120, temperature=0.0))
    short = [engine.submit([2, number], Sampling(2, seed=number)) for number in range(10)]
    while not all(request.done for request in short):
        engine.step()
    assert not long.done
    finish(engine, [long])


def start_order(engine: Engine, requests: Sequence[Request]) -> list[int]:
    """The numbers of the requests in the order of their first tokens; the memory is watched meanwhile."""
    order: list[int] = []
    for _ in range(2000):
        order += [number for number, each in enumerate(requests) if each.ids and number not in order]
        running = sum(bool(each.ids) and not each.done for each in requests)
        assert 0 <= engine.pool.available <= engine.pool.pages - running
        if all(each.done for each in requests):
            return order
        engine.step()
    raise AssertionError("not all requests finished")


@pytest.mark.parametrize("pages", [6, 9, 14])
def test_requests_that_wait_for_memory_all_finish_in_turn_and_with_the_same_tokens(
    model: Transformer, alone: list[list[int]], pages: int, native: bool
) -> None:
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, pages), native=native)
    assert engine.pool.pages == pages
    requests = [engine.submit(prompt, each) for prompt, each in zip(PROMPTS, SETTINGS, strict=True)]
    assert start_order(engine, requests) == list(range(len(requests)))
    assert [request.ids for request in requests] == alone
    assert all_is_given_back(engine)


def test_a_request_that_can_never_fit_is_refused_with_the_remedy(model: Transformer, native: bool) -> None:
    engine = Engine(model, rows=4, cache_bytes=cache_of(CONFIG, 3), native=native)
    assert len(engine.generate([[1] * 40], Sampling(9))[0].response_ids) == 9  # 48 positions to read: all three pages
    with pytest.raises(TrineError, match="raise cache_bytes or ask for fewer tokens"):
        engine.submit([1] * 40, Sampling(10))
    with pytest.raises(TrineError, match="prompt 1 needs 64 tokens of cache, more than the 48"):
        engine.generate([[1], [1] * 40], Sampling(10))
    assert engine.generate([], GREEDY) == []
    assert all_is_given_back(engine)


def test_memory_without_a_single_page_is_refused(model: Transformer, native: bool) -> None:
    with pytest.raises(TrineError, match="cache_bytes=100 holds no page"):
        Engine(model, cache_bytes=100, native=native)


def test_more_rows_than_a_call_reads_tokens_of_prompts(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MOST_TOKENS", 16)
    prompts = [[1 + number, number] for number in range(40)]
    many = Engine(model, rows=40, native=native).generate(prompts, Sampling(4, seed=1))
    assert responses(many) == responses(Engine(model, rows=7, native=native).generate(prompts, Sampling(4, seed=1)))


def test_prompts_that_fill_their_pages_exactly(model: Transformer, native: bool) -> None:
    prompts = ragged_prompts((15, 16, 17, 31, 32, 33))
    for budget in (1, 2, 16, 17):
        made = Engine(model, rows=4, native=native).generate(prompts, Sampling(budget, temperature=0.0))
        assert [list(ids) for ids in responses(made)] == [naive_greedy(model, each, budget) for each in prompts]


# Seeds


def test_the_same_seed_gives_the_same_tokens_whatever_shares_the_batch(model: Transformer, native: bool) -> None:
    mine, engine = Sampling(15, seed=42), Engine(model, rows=4, native=native)
    (expected,) = responses(engine.generate([[3, 1, 4]], [mine]))
    others = [Sampling(9, seed=seed, temperature=0.5) for seed in range(6)]
    for place in (0, 3, 6):
        settings = [*others[:place], mine, *others[place:]]
        prompts: list[list[int]] = [[8, place] for _ in settings]
        prompts[place] = [3, 1, 4]
        assert responses(engine.generate(prompts, settings))[place] == expected
    assert finish(engine, [engine.submit([3, 1, 4], mine)]) == [list(expected)]
    assert [part for ids in engine.stream([3, 1, 4], mine) for part in ids] == list(expected)


def test_with_a_sampling_for_each_prompt_equal_seeds_give_equal_answers(model: Transformer, native: bool) -> None:
    engine = Engine(model, native=native)
    one, two, other = responses(engine.generate([[3, 1]] * 3, [Sampling(15, seed=seed) for seed in (1, 1, 2)]))
    assert one == two != other


# Shared prefixes


def test_a_shared_beginning_is_read_once_and_the_answers_stay_the_same(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*LONG, number] for number in range(6)]
    engine = Engine(model, native=native)
    counts = count_tokens_read(engine, monkeypatch)
    shared = responses(engine.generate(prompts, replace(GREEDY, max_new_tokens=1)))
    assert sum(counts) == 101 + 5 * (101 - 6 * PAGE)
    assert [list(ids) for ids in shared] == [naive_greedy(model, each, 1) for each in prompts]


@pytest.mark.parametrize("most_tokens", [1024, 23])
def test_prefixes_shared_within_a_batch_and_between_batches_change_no_token(
    model: Transformer, native: bool, most_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MOST_TOKENS", most_tokens)
    prompts = [[*LONG[:length], number] for number, length in enumerate((100, 32, 70, 15, 16, 17, 99, 31))]
    expected = [naive_greedy(model, prompt, 6) for prompt in prompts]
    engine = Engine(model, rows=3, native=native)
    for _ in range(2):
        assert [list(ids) for ids in responses(engine.generate(prompts, GREEDY))] == expected


def test_the_very_same_prompt_again_reads_its_last_page_only(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, one = Engine(model, native=native), replace(GREEDY, max_new_tokens=1)
    first = responses(engine.generate([LONG[:32]], one))
    counts = count_tokens_read(engine, monkeypatch)
    assert responses(engine.generate([LONG[:32]], one)) == first
    assert counts == [16]  # the last token is read anew, so its page is


@pytest.mark.parametrize(("budget", "known"), [(50, 80), (8, 32), (9, 48)])
def test_a_second_turn_reads_only_what_is_new(
    model: Transformer, native: bool, budget: int, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token of an answer was drawn and never read: it completes no page."""
    engine = Engine(model, native=native)
    (answer,) = responses(engine.generate([LONG[:40]], Sampling(budget, temperature=0.0)))
    second = [*LONG[:40], *answer, 5, 6, 7]
    counts = count_tokens_read(engine, monkeypatch)
    (again,) = responses(engine.generate([second], replace(GREEDY, max_new_tokens=1)))
    assert sum(counts) == len(second) - known
    assert list(again) == naive_greedy(model, second, 1)


def test_a_second_turn_after_stop_ids_and_several_steps_at_once_is_right(model: Transformer, native: bool) -> None:
    engine = Engine(model, native=native)
    settings = Sampling(60, temperature=1.0, seed=3, eos_ids=tuple(range(0, 97, 9)))
    prompts = [LONG[start : start + 30] for start in range(0, 60, 10)]
    for prompt, answer in zip(prompts, responses(engine.generate(prompts, settings)), strict=True):
        second = [*prompt, *answer, 8]
        assert list(engine.generate([second], GREEDY)[0].response_ids) == naive_greedy(model, second, 6)


def test_prefixes_leave_for_new_requests_and_their_answers_stay_right(model: Transformer, native: bool) -> None:
    engine = Engine(model, rows=2, cache_bytes=cache_of(CONFIG, 8), native=native)
    prompts = [random_ids(50, seed=seed).tolist() for seed in (1, 2, 1, 3, 2, 1, 1)]
    for prompt in prompts:
        assert list(engine.generate([prompt], GREEDY)[0].response_ids) == naive_greedy(model, prompt, 6)


def test_refresh_forgets_prefixes(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = tiny_model(CONFIG), tiny_model(CONFIG, seed=1)
    engine = Engine(model, native=native)
    engine.generate([LONG], GREEDY)
    model.load_state_dict(other.state_dict())
    engine.refresh()
    counts = count_tokens_read(engine, monkeypatch)
    (rollout,) = engine.generate([LONG], replace(GREEDY, max_new_tokens=1))
    assert counts == [100]
    assert list(rollout.response_ids) == naive_greedy(other, LONG, 1)


def test_what_a_row_read_before_a_refresh_is_not_known_after_it(native: bool) -> None:
    """A row that runs on through `refresh` holds keys of the old weights."""
    model, other = tiny_model(CONFIG), tiny_model(CONFIG, seed=1)
    engine = Engine(model, native=native)
    running = engine.submit(LONG, Sampling(40, temperature=0.0))
    engine.step()
    model.load_state_dict(other.state_dict())
    engine.refresh()
    finish(engine, [running])
    assert list(engine.generate([LONG], GREEDY)[0].response_ids) == naive_greedy(other, LONG, 6)


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
    monkeypatch.setattr(engine_module, "MOST_TOKENS", 48)
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
    monkeypatch.setattr(engine_module, "MOST_TOKENS", 48)
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
        engine.generate(PROMPTS, SETTINGS, on_finished=interrupt)
    assert all_is_given_back(engine)
    counts = count_tokens_read(engine, monkeypatch)
    engine.generate([[1, 2, 3]], Sampling(1))
    assert counts == [3]


def test_a_bf16_engine_with_little_memory_finishes_too(native: bool) -> None:
    model = tiny_model(CONFIG, dtype=torch.bfloat16)
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, 6, item=2), native=native)
    assert engine.pool.pages == 6
    made = engine.generate(PROMPTS, [replace(sampling, eos_ids=()) for sampling in SETTINGS])
    assert [len(ids) for ids in responses(made)] == list(BUDGETS)
