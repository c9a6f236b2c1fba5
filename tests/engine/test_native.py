"""The compiled decoding step: the plain runner's numbers for every shape, and bit for bit its own in any company."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.engine.helpers import cache_of, finish, naive_greedy, responses
from tests.tiny import FAMILY_NAMES, ragged_prompts, random_tensor, tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.native.runner import NativeRunner, Precision, native_supports
from trine.engine.pages import PAGE
from trine.engine.runner import Chunk, DecodeRow, Runner, SamplingState
from trine.engine.sampling import Sampling, sample
from trine.engine.torch_runner import TorchRunner
from trine.model.config import ModelConfig, RopeScaling, gpt2_config
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.runtime.seeds import uniform

pytestmark = pytest.mark.usefixtures("needs_native")

LLAMA, QWEN3 = tiny_config("llama", context=256), tiny_config("qwen3", context=256)
SHAPES: dict[str, ModelConfig] = {
    **{family: tiny_config(family, context=256) for family in FAMILY_NAMES},
    "gpt2 with its own output table": replace(tiny_config("gpt2", context=256), tied_embeddings=False),
    "gpt2 with three heads": gpt2_config(97, 256, 2, width=48, heads=3),
    "gpt2 with head_dim 80": gpt2_config(97, 256, 1, width=160, heads=2),
    "llama with tied tables": replace(LLAMA, tied_embeddings=True),
    "width 80 and an MLP of 112": replace(LLAMA, width=80, mlp_width=112),
    "whole panels": replace(QWEN3, vocab_size=128, width=64, mlp_width=64),
    "a vocabulary of two segments": replace(QWEN3, vocab_size=1030),
    **{f"head_dim {size}": replace(QWEN3, head_dim=size) for size in (32, 48, 80, 128)},
    "every head its own key": replace(LLAMA, kv_heads=4),
    "four heads to a key": replace(LLAMA, kv_heads=1),
    "three heads to a key": replace(LLAMA, heads=6),
    "eight heads to a key": replace(LLAMA, heads=8, kv_heads=1),
    "llama3's stretched rotation": replace(LLAMA, rope_scaling=RopeScaling("llama3", 8.0, original_context=64)),
    "a linearly stretched rotation": replace(LLAMA, rope_scaling=RopeScaling("linear", 4.0)),
    "biases everywhere on a gated MLP": replace(LLAMA, qkv_bias=True, projection_bias=True),
}
PAGES, ROWS = 48, 8


def runner_of(model: Transformer, precision: Precision = "fp32", threads: int = 1) -> NativeRunner:
    runner = NativeRunner(model.config, rows=ROWS, pages=PAGES, precision=precision, threads=threads)
    runner.load(plain_weights(model))
    return runner


def plain_runner_of(model: Transformer) -> TorchRunner:
    runner = TorchRunner(model, PAGES)
    runner.load(plain_weights(model))
    return runner


def page_lists(lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Disjoint pages in no order, room for one page more than each length needs."""
    numbers = np.random.default_rng(seed).permutation(np.arange(1, PAGES + 1)).astype(np.int32)
    borders = np.cumsum([0, *[length // PAGE + 2 for length in lengths]])
    return [numbers[start:end].copy() for start, end in pairwise(borders)]


def read(runner: Runner, rows: Sequence[Sequence[int]], pages: Sequence[np.ndarray], chunk: int = 1000) -> Tensor:
    """Logits [rows, V] after each row, all rows read side by side, `chunk` tokens of each at a time."""
    result: dict[int, Tensor] = {}
    for start in range(0, max(map(len, rows)), chunk):
        active = [row for row in range(len(rows)) if start < len(rows[row])]
        runs = [
            Chunk(pages[row], rows[row][start : start + chunk], start, wanted=start + chunk >= len(rows[row]))
            for row in active
        ]
        wanted = [row for row, run in zip(active, runs, strict=True) if run.wanted]
        logits = runner.forward(runs)
        result |= {row: each.clone() for row, each in zip(wanted, logits, strict=True)}
    return torch.stack([result[row] for row in range(len(rows))])


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_the_plain_runners(name: str) -> None:
    """Rows of one token, of a page and one, and of ten pages; then one more token of each."""
    config = SHAPES[name]
    model = tiny_model(config)
    rows = ragged_prompts((1, 17, 150, 31), vocab_size=config.vocab_size)
    pages = page_lists([len(row) for row in rows])
    native, plain = runner_of(model), plain_runner_of(model)
    assert_close(read(native, rows, pages), read(plain, rows, pages), atol=1e-4, rtol=1e-5)
    runs = [Chunk(page, [3], len(row)) for row, page in zip(rows, pages, strict=True)]
    assert_close(native.forward(runs), plain.forward(runs), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "three heads to a key", "head_dim 80", "width 80 and an MLP of 112"])
def test_a_rows_logits_are_the_same_bits_in_any_company_and_in_any_chunks(name: str, precision: Precision) -> None:
    model = tiny_model(SHAPES[name])
    rows = ragged_prompts((40, 5, 21, 1, 33, 16, 9))
    pages = page_lists([len(row) for row in rows])
    runner = runner_of(model, precision)
    together = read(runner, rows, pages)
    for number, row in enumerate(rows):
        elsewhere = page_lists([len(row)], seed=number + 1)
        assert torch.equal(read(runner, [row], elsewhere)[0], together[number])
    for chunk in (1, 3, 16):
        assert torch.equal(read(runner, rows, page_lists([len(row) for row in rows], seed=chunk), chunk), together)
    assert torch.equal(read(runner_of(model, precision, threads=2), rows, pages), together)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_several_steps_at_once_are_the_same_as_one_at_a_time(precision: Precision) -> None:
    model, prompts = tiny_model(QWEN3), ragged_prompts((15, 3, 30))
    runner = runner_of(model, precision)

    def rows() -> list[DecodeRow]:
        pages = page_lists([48] * 3)
        read(runner, [prompt[:-1] for prompt in prompts], pages)
        return [
            DecodeRow(page, len(prompt) - 1, prompt[-1], SamplingState(0.8, seed), np.empty(0, dtype=np.int64))
            for seed, (page, prompt) in enumerate(zip(pages, prompts, strict=True))
        ]

    at_once = rows()
    ids, log_probs = runner.decode(at_once, 20)
    one_by_one = rows()
    steps = [runner.decode(one_by_one, 1) for _ in range(20)]
    assert ids == [step[0][0] for step in steps]
    assert log_probs == [step[1][0] for step in steps]
    assert [(row.next_id, row.position, row.sampling.counter) for row in at_once] == [
        (last, len(prompt) + 19, 20) for last, prompt in zip(ids[-1], prompts, strict=True)
    ]


def test_decoding_stops_after_the_first_step_in_which_a_row_ends() -> None:
    model = tiny_model(QWEN3)
    runner, pages, nothing = runner_of(model), page_lists([40, 40]), np.empty(0, dtype=np.int64)

    def rows(ends: np.ndarray) -> list[DecodeRow]:
        return [
            DecodeRow(pages[0], 0, 3, SamplingState(0, 0), nothing),
            DecodeRow(pages[1], 0, 4, SamplingState(0, 0), ends),
        ]

    freely, _ = runner.decode(rows(nothing), 12)
    end = freely[5][1]
    first = [step[1] for step in freely].index(end)
    assert runner.decode(rows(np.array([96, end])), 12)[0] == freely[: first + 1]


def test_prompts_longer_than_a_call_are_read_in_pieces(native: bool) -> None:
    model, prompts = tiny_model(QWEN3), ragged_prompts((40, 3, 7, 19, 1, 8, 60))
    rollouts = Engine(model, native=native, prefill_tokens=7).generate(prompts, Sampling(6, temperature=0.0))
    assert [list(ids) for ids in responses(rollouts)] == [naive_greedy(model, prompt, 6) for prompt in prompts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["compute", "int8"])
def test_tokens_and_log_probs_are_the_same_bits_whatever_shares_the_engine(dtype: torch.dtype, weights: str) -> None:
    model, prompts = tiny_model(QWEN3, dtype=dtype), ragged_prompts((40, 5, 21, 1, 33))
    settings = [Sampling(12, seed=seed) for seed in range(5)]

    def answers(
        rows: int, order: Sequence[int], prefill_tokens: int = 1024
    ) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        engine = Engine(model, rows=rows, weights=weights, native=True, prefill_tokens=prefill_tokens)
        made = engine.generate([prompts[i] for i in order], [settings[i] for i in order])
        return [(each.response_ids, each.log_probs) for each in made]

    whole = answers(5, range(5))
    assert answers(2, range(5)) == whole
    assert answers(5, [4, 2]) == [whole[4], whole[2]]
    assert answers(3, range(5), prefill_tokens=7) == whole


# Sampling


def native_sample(
    logits: Tensor, temperatures: Sequence[float], seeds: Sequence[int], counter: int = 0
) -> tuple[list[int], list[float]]:
    """Sample from given logits [at most 8, V], written over those of a forward call."""
    config = replace(LLAMA, vocab_size=logits.shape[1], layers=1)
    runner = runner_of(tiny_model(config))
    place = runner.forward([Chunk(page, [1], 0) for page in page_lists([1] * len(logits))])
    place.copy_(logits)
    states = [SamplingState(each, seed, counter) for each, seed in zip(temperatures, seeds, strict=True)]
    return runner.sample(range(len(logits)), states)


@pytest.mark.parametrize("vocabulary", [7, 97, 1024, 1030, 5000])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5, 0.0])
def test_samples_are_those_of_the_plain_sampler(vocabulary: int, temperature: float) -> None:
    """But where the random point lies within 1e-5 of a border between two tokens."""
    logits = random_tensor(8, vocabulary) * 4
    cumulative = (logits.double() / (temperature or 1.0)).softmax(1).cumsum(1)
    for round_number in range(12):
        seeds = [1_000_003 * round_number + row for row in range(8)]
        ids, log_probs = native_sample(logits, [temperature] * 8, seeds, counter=5)
        counters = torch.full((8,), 5)
        expected, expected_log_probs = sample(logits, temperature, torch.tensor(seeds), counters)
        points = uniform(torch.tensor(seeds), counters)
        at_border = (cumulative - points.unsqueeze(1)).abs().amin(1) < 1e-5 if temperature else points < 0
        same = torch.tensor(ids) == expected
        assert bool((same | at_border).all())
        assert int(same.sum()) >= 6
        assert_close(torch.tensor(log_probs)[same], expected_log_probs[same], atol=1e-5, rtol=1e-5)


def many_samples(logits: Tensor, temperature: float, rounds: int) -> Tensor:
    config = replace(LLAMA, vocab_size=len(logits), layers=1)
    runner = runner_of(tiny_model(config))
    runner.forward([Chunk(page, [1], 0) for page in page_lists([1] * ROWS)]).copy_(logits.expand(ROWS, -1))
    states = [SamplingState(temperature, seed, counter) for counter in range(rounds) for seed in range(ROWS)]
    return torch.tensor(runner.sample([0] * len(states), states)[0])


def test_many_samples_follow_the_softmax() -> None:
    """11 outcomes, 20000 samples: chi-square of 10 degrees of freedom exceeds 29.6 once in a thousand."""
    logits = random_tensor(11, seed=4)
    observed = torch.bincount(many_samples(logits, 0.7, 2500), minlength=11)
    for temperature, fits in ((0.7, True), (0.8, False)):
        expected = (logits / temperature).softmax(0) * 20000
        assert (float(((observed - expected) ** 2 / expected).sum()) < 29.6) == fits


@pytest.mark.parametrize("possible", [[0], [3, 5], [96], [1029], [1023, 1024], [2999], [5, 2050]])
def test_impossible_tokens_are_never_drawn(possible: list[int]) -> None:
    logits = torch.full((3000 if max(possible) > 96 else 97,), -torch.inf)
    logits[possible] = torch.arange(len(possible)).float()
    assert set(many_samples(logits, 1.0, 100).tolist()) == set(possible)


def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_possible_token() -> None:
    seeds = torch.arange(2_000_000)
    points = uniform(seeds, torch.zeros_like(seeds))
    lowest, highest = int(points.argmin()), int(points.argmax())
    logits = torch.full((8, 2050), -torch.inf)
    logits[:, [7, 1500]] = 0.0
    assert native_sample(logits[:2], [1.0, 1.0], [lowest, highest])[0] == [7, 1500]


def test_of_equally_likely_tokens_the_first_is_the_likeliest() -> None:
    logits = torch.zeros(8, 1030)
    logits[:, [40, 41, 1029]] = 2.0
    assert native_sample(logits, [0.0] * 8, range(8))[0] == [40] * 8


def test_the_token_of_a_very_low_temperature_is_the_likeliest() -> None:
    logits = random_tensor(8, 1030)
    assert native_sample(logits, [1e-6] * 8, range(8))[0] == logits.argmax(1).tolist()


def test_one_logit_that_is_no_number_damages_its_row_and_no_other() -> None:
    for place in (0, 17, 96):
        for value in (torch.nan, torch.inf):
            logits = random_tensor(3, 97)
            whole = native_sample(logits, [0.7] * 3, [1, 2, 3])[0]
            logits[1, place] = value
            for temperature in (0.0, 0.7):
                ids = native_sample(logits, [0.7, temperature, 0.7], [1, 2, 3])[0]
                assert ids == [whole[0], -1, whole[2]]


# Weights


DAMAGED = [(family, name) for family in FAMILY_NAMES for name in dict(tiny_model(family, layers=1).named_parameters())]


@pytest.mark.parametrize(("family", "name"), DAMAGED)
def test_damaged_weights_are_refused_wherever_they_are(family: str, name: str, native: bool) -> None:
    model = tiny_model(family, layers=1)
    with torch.no_grad():
        dict(model.named_parameters())[name].fill_(torch.nan)
    with pytest.raises(TrineError, match="weights are damaged"):
        Engine(model, rows=2, native=native).generate([[1, 2, 3]], Sampling(4))


def test_damage_that_shows_in_the_middle_of_an_answer_is_refused_too(native: bool) -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.position_embedding.weight[9] = torch.nan
    engine = Engine(model, native=native)
    assert len(engine.generate([[1, 2, 3]], Sampling(7))[0].response_ids) == 7  # reads positions 0 to 8
    with pytest.raises(TrineError, match="weights are damaged"):
        engine.generate([[1, 2, 3], [4]], Sampling(20))
    assert engine.pool.available == engine.pool.pages


def test_an_engine_recovers_from_damaged_weights(native: bool) -> None:
    """The pages are used again; nothing of the numbers that were none may stay in them."""
    model = tiny_model(QWEN3)
    engine = Engine(model, rows=2, cache_bytes=cache_of(QWEN3, 3), native=native)
    prompts, weight = ragged_prompts((20, 5)), model.blocks[0].attention.qkv.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        engine.refresh()
        with pytest.raises(TrineError, match="weights are damaged"):
            engine.generate(prompts, Sampling(4))
        weight.copy_(kept)
    engine.refresh()
    requests = [engine.submit(prompt, Sampling(4, temperature=0.0)) for prompt in prompts]
    assert finish(engine, requests) == [naive_greedy(model, prompt, 4) for prompt in prompts]


def test_widths_that_are_no_whole_vectors_run_on_the_plain_runner() -> None:
    odd = replace(LLAMA, head_dim=24)
    assert native_supports(LLAMA)
    assert not native_supports(odd)
    engine = Engine(tiny_model(odd))
    assert not engine.native
    assert len(engine.generate([[1]], Sampling(3))[0].response_ids) == 3


@pytest.mark.parametrize(
    ("config", "dtype"), [(replace(LLAMA, head_dim=24), torch.float32), (LLAMA, torch.float64)], ids=["shape", "fp64"]
)
def test_the_compiled_step_is_refused_where_it_was_asked_for_and_cannot_run(
    config: ModelConfig, dtype: torch.dtype
) -> None:
    with pytest.raises(TrineError, match="native"):
        Engine(tiny_model(config, dtype=dtype), native=True)


def test_more_rows_than_a_calls_tokens_decode_side_by_side() -> None:
    """The workspace has room for whichever is more."""
    config = replace(LLAMA, layers=1, context=16)
    runner = NativeRunner(config, rows=1100, pages=1100, precision="fp32", threads=1)
    runner.load(plain_weights(tiny_model(config)))
    pages = np.arange(1, 1101, dtype=np.int32).reshape(1100, 1)
    first = runner.forward([Chunk(page, [number % 97], 0) for number, page in enumerate(pages)]).clone()
    assert torch.equal(first[97:194], first[:97])
    assert torch.equal(runner.forward([Chunk(pages[5], [5], 0)])[0], first[5])
