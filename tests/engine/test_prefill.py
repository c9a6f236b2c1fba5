"""2.3: prompts are read in pieces: answers go on meanwhile, a cancelled prompt is read no further, tokens stay."""

import random
from collections.abc import Sequence

import pytest
import torch

from tests.engine.helpers import (
    all_is_given_back,
    cache_of,
    count_tokens_read,
    finish,
    naive_greedy,
    responses,
    watch_forward,
)  # fmt: skip
from tests.tiny import ragged_prompts, random_ids, tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.pages import PAGE
from trine.engine.runner import Chunk
from trine.engine.sampling import Sampling
from trine.engine.worker import EngineWorker
from trine.model.transformer import Transformer

CONFIG = tiny_config("qwen3", context=1024)
LONG = random_ids(800, seed=5).tolist()
GREEDY = Sampling(6, temperature=0.0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(CONFIG)


@pytest.mark.parametrize("submitted_together", [False, True])
def test_running_answers_move_on_with_every_piece_of_a_long_prompt(
    model: Transformer, native: bool, submitted_together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.3: no step reads more of prompts than the engine's `prefill_tokens`, and each brings every stream a token."""
    engine = Engine(model, native=native, prefill_tokens=64)
    running = engine.submit([1, 2], Sampling(60, temperature=0.0))
    if not submitted_together:
        engine.step()
    counts = count_tokens_read(engine, monkeypatch)
    long = engine.submit(LONG, GREEDY)
    for _ in range(12):
        before, read = len(running.ids), sum(counts)
        engine.step()
        assert len(running.ids) > before
        assert sum(counts) - read <= 64 + 1
        assert not long.ids
    finish(engine, [running, long])
    assert long.ids == naive_greedy(model, LONG, 6)
    assert running.ids == naive_greedy(model, [1, 2], 60)


def test_a_cancelled_prompt_is_read_no_further(
    model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.3: neither directly nor through the worker."""
    engine = Engine(model, native=native, prefill_tokens=64)
    counts = count_tokens_read(engine, monkeypatch)
    request = engine.submit(LONG, GREEDY)
    engine.step()
    request.cancel()
    engine.step()
    assert counts == [64]
    assert all_is_given_back(engine)
    with EngineWorker(engine) as worker:
        future = worker.submit(LONG[1:], GREEDY)

        def cancel(chunks: Sequence[Chunk]) -> None:
            future.cancel()

        watch_forward(engine, monkeypatch, cancel)
        worker.generate([[1]], Sampling(1))
    assert sum(counts) <= 64 + 64 + 2
    assert all_is_given_back(engine)


@pytest.mark.parametrize("prefill_tokens", [1, 7, 16, 100])
def test_the_tokens_are_those_of_prompts_read_at_once(prefill_tokens: int, native: bool) -> None:
    """2.3: bit for bit on the compiled runner, in bf16 too; on the plain one in fp64, where rounding changes none."""
    model = tiny_model(CONFIG, dtype=torch.bfloat16 if native else torch.float64)
    prompts = ragged_prompts((40, 3, 16, 90, 1, 33))
    settings = [Sampling(12, 0.8, seed=seed, top_k=seed % 2 * 9) for seed in range(6)]
    whole = Engine(model, native=native).generate(prompts, settings)
    cut = Engine(model, rows=4, native=native, prefill_tokens=prefill_tokens).generate(prompts, settings)
    assert responses(cut) == responses(whole)
    if native:
        assert [each.log_probs for each in cut] == [each.log_probs for each in whole]


@pytest.mark.parametrize("seed", range(6))
def test_prompts_that_share_a_beginning_survive_each_others_cancelling(
    seed: int, model: Transformer, native: bool
) -> None:
    """2.3: a row may wait for pages that another was to compute, and that one may leave at any moment, read by half."""
    rng = random.Random(seed)
    engine = Engine(model, rows=5, cache_bytes=cache_of(CONFIG, 40), native=native, prefill_tokens=24)
    kept, gone = [], []
    for number in range(24):
        beginning = LONG[: rng.choice((3, 5, 6)) * PAGE]
        prompt = [*beginning[: rng.choice((len(beginning), 2 * PAGE))], number, *LONG[: rng.randint(0, 30)]]
        (kept if rng.random() < 0.4 else gone).append(engine.submit(prompt, Sampling(5, temperature=0.0)))
    while not all(request.done for request in kept):
        engine.step()
        if rng.random() < 0.5:
            started = [row.request for row in engine.admission.active if row.request in gone]
            if started:
                rng.choice(started).cancel()
        if rng.random() < 0.1:
            engine.log_probs([LONG[:70]], [[1, 2, 3]])
    for request in kept:
        assert request.ids == naive_greedy(model, request.prompt_ids, 5)
    for request in gone:
        request.cancel()
    engine.step()
    assert all_is_given_back(engine)
    prompt = [*LONG[: 6 * PAGE], 3]
    assert responses(engine.generate([prompt], GREEDY)) == [tuple(naive_greedy(model, prompt, 6))]


def test_log_probs_read_no_page_that_is_still_to_be_computed(model: Transformer, native: bool) -> None:
    """2.3: they share a prompt's beginning with a request that has it half read."""
    expected = Engine(model, native=native).log_probs([LONG[:300]], [[4, 5]])
    engine = Engine(model, native=native, prefill_tokens=32)
    request = engine.submit(LONG[:300], GREEDY)
    engine.step()
    found = engine.log_probs([LONG[:300]], [[4, 5]])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)
    assert finish(engine, [request]) == [naive_greedy(model, LONG[:300], 6)]
