"""The runner of GPUs, its step not captured: the plain runner's tokens, in rounded-up shapes and whatever pages held.

`tests/gpu/test_engine.py` captures the same step on a GPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.engine.helpers import responses
from tests.tiny import ragged_prompts, tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.graph_runner import GraphRunner
from trine.engine.pages import PAGE
from trine.engine.runner import Chunk, DecodeRow, Runner, SamplingState
from trine.engine.sampling import Sampling
from trine.engine.torch_runner import TorchRunner
from trine.model.config import ModelConfig
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer

PAGES = 40
CONFIGS = {
    "gpt2": tiny_config("gpt2", context=90),
    "qwen3": tiny_config("qwen3", context=256),
    "llama": replace(tiny_config("llama", context=256), kv_heads=1),
}


def runners_of(model: Transformer) -> tuple[GraphRunner, TorchRunner]:
    """Both, with pages full of what nobody may read."""
    graphs, plain = GraphRunner(model, PAGES), TorchRunner(model, PAGES)
    for runner in (graphs, plain):
        runner.load(plain_weights(model))
        for pages in (*runner.cache.keys, *runner.cache.values):
            pages.fill_(float("nan"))
    return graphs, plain


def started(
    runner: Runner, config: ModelConfig, lengths: tuple[int, ...], ends: tuple[int, ...] = ()
) -> list[DecodeRow]:
    """Rows that have read prompts of these lengths, with room for the whole context."""
    each = -(-config.context // PAGE)
    numbers = np.random.default_rng(0).permutation(np.arange(1, PAGES + 1)).astype(np.int32)
    rows = []
    for index, prompt in enumerate(ragged_prompts(lengths)):
        pages = numbers[index * each : (index + 1) * each]
        runner.forward([Chunk(pages, prompt, 0)])
        sampling = SamplingState(0.0 if index == 1 else 0.8, seed=100 + index)
        rows.append(DecodeRow(pages, len(prompt), 5 + index, sampling, np.array(ends, dtype=np.int64)))
    return rows


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_the_plain_runners(name: str) -> None:
    """Rows of unequal lengths, one of them greedy, over several borders of pages, in calls of 1, 7 and 32 steps."""
    config = CONFIGS[name]
    both = runners_of(tiny_model(config))
    rows = [started(runner, config, (3, 15, 30)[: PAGES // -(-config.context // PAGE)]) for runner in both]
    for steps in (1, 7, 32):
        made = [runner.decode(own, steps) for runner, own in zip(both, rows, strict=True)]
        (ids, log_probs), (expected, expected_log_probs) = made
        assert ids == expected
        assert len(ids) == steps
        assert_close(torch.tensor(log_probs), torch.tensor(expected_log_probs), atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(*rows, strict=True):
        assert (ours.position, ours.next_id, ours.sampling) == (theirs.position, theirs.next_id, theirs.sampling)


def test_a_row_decodes_to_the_last_position_of_the_context() -> None:
    config = CONFIGS["gpt2"]
    both = runners_of(tiny_model(config))
    made = []
    for runner in both:
        rows = started(runner, config, (60,))
        made.append(runner.decode(rows, 30)[0])
        assert rows[0].position == config.context
    assert made[0] == made[1]


def test_logits_of_one_token_a_row_are_the_plain_runners() -> None:
    config = CONFIGS["qwen3"]
    graphs, plain = runners_of(tiny_model(config))
    found = []
    for runner in (graphs, plain):
        rows = started(runner, config, (16, 21))  # the first begins a page
        found.append(runner.forward([Chunk(row.pages, [row.next_id], row.position) for row in rows]).clone())
    assert_close(*found, atol=1e-4, rtol=1e-5)
    assert graphs.sample([1], [SamplingState(0.0, 0)])[0] == [int(found[1][1].argmax())]


def test_a_call_stops_behind_the_first_end_and_goes_on_from_there() -> None:
    config = CONFIGS["gpt2"]
    free, _ = runners_of(tiny_model(config))
    [unbroken, _] = free.decode(started(free, config, (3, 15)), 20)
    end = next(ids[0] for ids in unbroken[4:] if ids[0] not in (first[0] for first in unbroken[:4]))
    at = next(number for number, ids in enumerate(unbroken) if end in ids)
    for runner in runners_of(tiny_model(config)):
        rows = started(runner, config, (3, 15), ends=(end,))
        first, _ = runner.decode(rows, 20)
        assert first == unbroken[: at + 1]
        for row in rows:
            row.ends = np.array([], dtype=np.int64)
        assert runner.decode(rows, 19 - at)[0] == unbroken[at + 1 :]


def test_a_damaged_row_stops_the_call_and_reaches_no_neighbour() -> None:
    """Its page holds a NaN where it has written; the others' tokens are what they were."""
    config = CONFIGS["qwen3"]
    graphs, _ = runners_of(tiny_model(config))
    rows = started(graphs, config, (3, 15))
    graphs.cache.keys[0][int(rows[0].pages[0]), 1] = float("nan")
    [first], _ = graphs.decode(rows, 5)
    assert first[0] == -1
    whole, _ = runners_of(tiny_model(config))
    [[_, neighbour]], _ = whole.decode(started(whole, config, (3, 15)), 1)
    assert first[1] == neighbour


def test_new_weights_lie_where_the_old_ones_did() -> None:
    for config in (CONFIGS["gpt2"], CONFIGS["llama"]):  # tied tables, and not
        first, second = tiny_model(config, seed=0, dtype=torch.bfloat16), tiny_model(config, seed=1)
        graphs = GraphRunner(first, PAGES)
        graphs.load(plain_weights(first))
        places = {name: weight.data_ptr() for name, weight in graphs._loaded().items()}
        graphs.load(plain_weights(second))
        assert {name: weight.data_ptr() for name, weight in graphs._loaded().items()} == places
        fresh = GraphRunner(first, PAGES)
        fresh.load(plain_weights(second))
        made = [runner.decode(started(runner, config, (3, 15)), 5) for runner in (graphs, fresh)]
        assert made[0] == made[1]


def test_an_engine_generates_the_same_on_either_runner() -> None:
    """Rows come and go, so that calls have from one to five rows; some sample from filtered logits."""
    model = tiny_model(CONFIGS["qwen3"])
    prompts = ragged_prompts((2, 30, 9, 17, 5, 40, 3))
    settings = [
        Sampling(length, temperature=0.9, seed=length, eos_ids=(4, 5), top_k=20 if length % 2 else 0)
        for length in (4, 33, 12, 20, 7, 25, 18)
    ]
    made = []
    for kind in (GraphRunner, TorchRunner):
        engine = Engine(model, rows=5, native=False)
        engine.runner = engine.stepper.runner = kind(model, engine.pool.pages)
        engine.refresh()
        made.append(responses(engine.generate(prompts, settings)))
    assert made[0] == made[1]
    assert len({len(response) for response in made[0]}) > 3
