"""Many requests through few rows and little memory: each gets the tokens it gets alone, shared prefixes or not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.engine.helpers import all_is_given_back, cache_of, count_tokens_read, finish, naive_greedy, responses
from tests.tiny import ragged_prompts, random_ids, tiny_config, tiny_model
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
def test_requests_that_wait_for_memory_all_finish_with_the_same_tokens(
    model: Transformer, alone: list[list[int]], pages: int, native: bool
) -> None:
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, pages), native=native)
    assert engine.pool.pages == pages
    requests = [engine.submit(prompt, each) for prompt, each in zip(PROMPTS, SETTINGS, strict=True)]
    assert sorted(start_order(engine, requests)) == list(range(len(requests)))
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


def test_more_rows_than_a_call_reads_tokens_of_prompts(model: Transformer, native: bool) -> None:
    prompts = [[1 + number, number] for number in range(40)]
    many = Engine(model, rows=40, native=native, prefill_tokens=16).generate(prompts, Sampling(4, seed=1))
    assert responses(many) == responses(Engine(model, rows=7, native=native).generate(prompts, Sampling(4, seed=1)))


def test_prompts_that_fill_their_pages_exactly(model: Transformer, native: bool) -> None:
    prompts = ragged_prompts((15, 16, 17, 31, 32, 33))
    for budget in (1, 2, 16, 17):
        made = Engine(model, rows=4, native=native).generate(prompts, Sampling(budget, temperature=0.0))
        assert [list(ids) for ids in responses(made)] == [naive_greedy(model, each, budget) for each in prompts]


def test_a_bf16_engine_with_little_memory_finishes_too(native: bool) -> None:
    model = tiny_model(CONFIG, dtype=torch.bfloat16)
    engine = Engine(model, rows=8, cache_bytes=cache_of(CONFIG, 6, item=2), native=native)
    assert engine.pool.pages == 6
    made = engine.generate(PROMPTS, [replace(sampling, eos_ids=()) for sampling in SETTINGS])
    assert [len(ids) for ids in responses(made)] == list(BUDGETS)


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


@pytest.mark.parametrize("max_tokens", [1024, 23])
def test_prefixes_shared_within_a_batch_and_between_batches_change_no_token(
    model: Transformer, native: bool, max_tokens: int
) -> None:
    prompts = [[*LONG[:length], number] for number, length in enumerate((100, 32, 70, 15, 16, 17, 99, 31))]
    expected = [naive_greedy(model, prompt, 6) for prompt in prompts]
    engine = Engine(model, rows=3, native=native, prefill_tokens=max_tokens)
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
    """The last token of an answer was sampled and never read: it completes no page."""
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


def test_weights_cannot_change_under_a_running_request(native: bool) -> None:
    model, other = tiny_model(CONFIG), tiny_model(CONFIG, seed=1)
    engine = Engine(model, native=native)
    running = engine.submit(LONG, Sampling(40, temperature=0.0))
    engine.step()
    model.load_state_dict(other.state_dict())
    with pytest.raises(TrineError, match=r"1 requests are running.*EngineWorker"):
        engine.refresh()
    assert finish(engine, [running]) == [naive_greedy(tiny_model(CONFIG), LONG, 40)]
    waiting = engine.submit(LONG, GREEDY)
    engine.refresh()
    assert finish(engine, [waiting]) == [naive_greedy(other, LONG, 6)]
    assert list(engine.generate([LONG], GREEDY)[0].response_ids) == naive_greedy(other, LONG, 6)
