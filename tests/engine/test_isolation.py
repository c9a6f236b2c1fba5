"""A request that cannot go on through its own settings ends alone."""

import os
from typing import Any

import pytest
import torch

from tests.engine.helpers import all_is_given_back, naive_greedy
from tests.tiny import ragged_prompts, tiny_model, tiny_tokenizer
from trine.engine.engine import Engine
from trine.engine.memory import large_zeros
from trine.engine.runner import Chunk
from trine.engine.sampling import Constraint, Sampling
from trine.engine.torch_runner import _rectangles
from trine.runtime.errors import TrineError

NOTHING = tuple((token_id, float("-inf")) for token_id in range(320))
GREEDY = Sampling(12, temperature=0.0)


@pytest.mark.parametrize(
    "hopeless",
    [
        Sampling(5, logit_bias=NOTHING),
        Sampling(5, temperature=0.0, logit_bias=NOTHING),
        Sampling(5, eos_ids=(0,), logit_bias=NOTHING[1:], constraint=Constraint("regex", "[0-9]{3}")),
    ],
)
def test_a_request_without_a_possible_token_fails_and_its_neighbours_go_on(hopeless: Sampling, native: bool) -> None:
    model = tiny_model(vocab_size=320)
    engine = Engine(model, tokenizer=tiny_tokenizer(), native=native)
    fine, failing, too = engine.submit([3, 4], GREEDY), engine.submit([5], hopeless), engine.submit([6], GREEDY)
    while not (fine.done and failing.done and too.done):
        engine.step()
    assert failing.stop_reason == "failed"
    assert "leave no token" in str(failing.error)
    for request in (fine, too):
        assert request.ids == naive_greedy(model, list(request.prompt_ids), 12)
    assert all_is_given_back(engine)
    with pytest.raises(TrineError, match="leave no token"):
        engine.generate([[5]], hopeless)
    with pytest.raises(TrineError, match="leave no token"):
        list(engine.stream([5], hopeless))


@pytest.mark.parametrize(
    "settings",
    [
        {"logit_bias": ((1, 1e39),)},
        {"presence_penalty": -1e39},
        {"repetition_penalty": 1e-300},
        {"temperature": 1e-40},
        {"stop_strings": ("\ud800",)},
        {"eos_ids": (2**70,)},
        {"stop_ids": (97,)},
    ],
)
def test_settings_beyond_what_numbers_can_hold_are_refused_before_they_start(
    settings: dict[str, Any], native: bool
) -> None:
    engine = Engine(tiny_model(), native=native)
    with pytest.raises(TrineError, match=next(iter(settings))):
        engine.submit([1], Sampling(4, **settings))
    assert all_is_given_back(engine)


def test_a_stream_that_something_else_cut_off_says_so(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model(), native=native)
    stream = engine.stream([1, 2], GREEDY)
    next(stream)
    engine.admission.active[0].request.cancel()
    with pytest.raises(TrineError, match="cancelled"):
        list(stream)


def test_padding_no_more_than_doubles_what_the_plain_runner_reads() -> None:
    lengths = [900, *[2] * 60, 512, *[16] * 15, 3, 700]
    runs = [Chunk(torch.zeros(1).numpy(), range(length), 0) for length in lengths]
    cut = _rectangles(runs)
    assert [run for rectangle in cut for run in rectangle] == runs
    for rectangle in cut:
        counts = [len(run.ids) for run in rectangle]
        assert max(counts) * len(counts) <= 2 * sum(counts)
    assert len(cut) < 8


def test_scoring_reads_a_shared_prompt_once(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model(), native=native)
    read: list[int] = []
    log_probs = engine.runner.log_probs

    def watched(runs: Any, *rest: Any) -> list[float]:
        read.extend(len(run.ids) for run in runs)
        return log_probs(runs, *rest)

    monkeypatch.setattr(engine.runner, "log_probs", watched)
    (prompt,) = ragged_prompts((40,))
    engine.log_probs([prompt] * 4, ragged_prompts((5, 3, 8, 2), seed=9))
    assert read == [44, 10, 15, 9]


def test_memory_is_the_processes_own() -> None:
    """Shared memory would cross a fork, and is never given large pages."""
    room = large_zeros(1, torch.int64)
    if (child := os.fork()) == 0:
        room[0] = 9
        os._exit(0)
    os.waitpid(child, 0)
    assert room.tolist() == [0]
