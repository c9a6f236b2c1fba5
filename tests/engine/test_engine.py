"""The engine against naive decoding, against the trainer's numbers, and against itself in other batches.

Every specification holds for both runners (conftest.py).
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.engine.helpers import naive_greedy, next_logits, responses, trainer_log_probs
from tests.tiny import FAMILY_NAMES, make_likely, ragged_prompts, tiny_model
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Rollout
from trine.runtime.errors import TrineError

families = pytest.mark.parametrize("family", FAMILY_NAMES)
PROMPTS = ragged_prompts((5, 1, 9, 3, 7, 2, 9, 4))
SEVENTHS = tuple(range(0, 97, 7))
FIFTHS = tuple(range(0, 97, 5))
END = 5


@families
def test_greedy_decoding_is_naive_decoding_token_for_token_while_rows_finish_at_different_times(
    family: str, native: bool
) -> None:
    model = tiny_model(family)
    rollouts = Engine(model, native=native).generate(PROMPTS, Sampling(12, temperature=0.0, eos_ids=FIFTHS))
    assert [list(ids) for ids in responses(rollouts)] == [naive_greedy(model, prompt, 12, FIFTHS) for prompt in PROMPTS]
    assert len({len(ids) for ids in responses(rollouts)}) > 2
    assert [list(rollout.prompt_ids) for rollout in rollouts] == PROMPTS


@families
def test_greedy_decoding_fills_the_budget_where_nothing_ends(family: str, native: bool) -> None:
    model = tiny_model(family)
    rollouts = Engine(model, rows=3, native=native).generate(PROMPTS, Sampling(20, temperature=0.0))
    assert [list(ids) for ids in responses(rollouts)] == [naive_greedy(model, prompt, 20, ()) for prompt in PROMPTS]


@families
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_log_probs_are_the_trainers_at_the_same_temperature(family: str, temperature: float, native: bool) -> None:
    model = tiny_model(family)
    sampling = Sampling(16, temperature=temperature, seed=3, eos_ids=SEVENTHS[:5])
    for rollout in Engine(model, native=native).generate(PROMPTS, sampling):
        assert rollout.temperature == temperature
        assert_close(torch.tensor(rollout.log_probs), trainer_log_probs(model, rollout), atol=1e-5, rtol=0)


def mean_difference(rollouts: list[Rollout], model: Transformer) -> float:
    """How far the engine's log-probabilities are from those of `model`, over all tokens."""
    differences = [torch.tensor(each.log_probs) - trainer_log_probs(model, each) for each in rollouts]
    return float(torch.cat(differences).abs().mean())


@families
def test_in_bf16_the_plain_runners_log_probs_are_the_trainers_up_to_the_order_of_sums(family: str) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    rollouts = Engine(model, native=False).generate(PROMPTS, Sampling(16, seed=3))
    assert mean_difference(rollouts, model) < 0.01


def test_in_bf16_the_native_runners_log_probs_are_at_least_as_near_to_fp32_as_the_trainers(needs_native: None) -> None:
    natives, trainers = 0.0, 0.0
    for family in FAMILY_NAMES:
        model, exact = tiny_model(family, dtype=torch.bfloat16), tiny_model(family)
        rollouts = Engine(model, native=True).generate(PROMPTS, Sampling(16, seed=3))
        natives += mean_difference(rollouts, exact)
        with torch.no_grad():
            trainers += mean_difference(
                [replace(each, log_probs=tuple(trainer_log_probs(model, each).tolist())) for each in rollouts], exact
            )
    assert 0 < natives <= trainers


def batches_give_the_same(model: Transformer, temperature: float, native: bool) -> None:
    sampling = Sampling(10, temperature=temperature, seed=6, eos_ids=SEVENTHS[:5])
    whole = responses(Engine(model, native=native).generate(PROMPTS, sampling))
    for rows in (1, 2, 3):
        assert responses(Engine(model, rows=rows, native=native).generate(PROMPTS, sampling)) == whole
    assert responses(Engine(model, native=native).generate(PROMPTS[:3], sampling)) == whole[:3]
    others = [*PROMPTS[:2], *ragged_prompts((30, 1, 8), seed=50), *PROMPTS[5:]]
    changed = responses(Engine(model, native=native).generate(others, sampling))
    assert changed[:2] + changed[5:] == whole[:2] + whole[5:]


@families
def test_a_row_gets_the_same_tokens_whatever_shares_its_batch(family: str) -> None:
    """In fp64, where the summation order changes no token; in fp32 it may change one in a million."""
    batches_give_the_same(tiny_model(family, dtype=torch.float64), 0.6, native=False)


def test_a_row_gets_the_same_tokens_in_fp32_too(native: bool) -> None:
    batches_give_the_same(tiny_model("qwen3"), 0.6, native)


def test_the_seed_decides_and_equal_prompts_get_different_answers(native: bool) -> None:
    engine, prompts = Engine(tiny_model(), native=native), [[3, 1, 4]] * 6
    first, again = (responses(engine.generate(prompts, Sampling(10, seed=1))) for _ in range(2))
    assert first == again
    assert len(set(first)) == 6
    assert responses(engine.generate(prompts, Sampling(10, seed=2))) != first


def test_a_batch_follows_the_models_distribution(native: bool) -> None:
    """The first token of 4000 rows over 23 entries; chi-square of 22 degrees exceeds 48.3 once in a thousand."""
    model = tiny_model(vocab_size=23)
    rollouts = Engine(model, rows=4000, native=native).generate(
        [[3, 1, 4]] * 4000, Sampling(1, temperature=0.6, seed=9)
    )
    counts = torch.bincount(torch.tensor([rollout.response_ids[0] for rollout in rollouts]), minlength=23)
    expected = 4000 * (next_logits(model, [3, 1, 4]) / 0.6).softmax(0)
    assert float(((counts - expected) ** 2 / expected).sum()) < 48.3


def test_stop_reasons_tell_end_stop_and_budget_apart_and_keep_the_last_token(native: bool) -> None:
    model = tiny_model("gpt2")
    make_likely(model, END, 1.0)
    make_likely(model, 6, 1.0)
    sampling = Sampling(6, seed=2, eos_ids=(END,), stop_ids=(6,))
    rollouts = Engine(model, native=native).generate([[3, 1, 4]] * 40, sampling)
    assert {rollout.stop_reason for rollout in rollouts} == {"eos", "stop", "length"}
    for rollout in rollouts:
        last = {"eos": END, "stop": 6}.get(rollout.stop_reason)
        assert rollout.response_ids[-1] == last or (last is None and len(rollout.response_ids) == 6)
        assert not {END, 6} & set(rollout.response_ids[:-1])
        assert rollout.ended == (rollout.stop_reason != "length")
        assert len(rollout.log_probs) == len(rollout.response_ids)


def test_an_end_token_as_the_last_of_the_budget_is_an_end(native: bool) -> None:
    model = tiny_model("gpt2")
    make_likely(model, END, 50.0)
    assert Engine(model, native=native).generate([[1]], Sampling(1, eos_ids=(END,)))[0].stop_reason == "eos"


def test_end_tokens_in_the_prompt_end_nothing(native: bool) -> None:
    model = tiny_model()
    prompt = [END, 3, END, 4, END]
    (rollout,) = Engine(model, native=native).generate([prompt], Sampling(8, temperature=0.0, eos_ids=(END,)))
    assert list(rollout.response_ids) == naive_greedy(model, prompt, 8, (END,))
    assert len(rollout.response_ids) > 1


def test_a_prompt_and_its_budget_may_fill_the_context_exactly(native: bool) -> None:
    (rollout,) = Engine(tiny_model("gpt2", context=16), native=native).generate([[1] * 10], Sampling(6))
    assert len(rollout.response_ids) == 6


def test_a_prompt_that_leaves_no_room_is_refused_with_its_number(native: bool) -> None:
    with pytest.raises(TrineError, match=r"prompt 1 has 11 tokens.*context of 16"):
        Engine(tiny_model(context=16), native=native).generate([[1], [1] * 11], Sampling(6))


def test_an_empty_prompt_is_refused_with_its_number(native: bool) -> None:
    with pytest.raises(TrineError, match="prompt 2 is empty"):
        Engine(tiny_model(), native=native).generate([[1], [2], []], Sampling(6))


def test_no_prompts_give_no_rollouts(native: bool) -> None:
    assert Engine(tiny_model(), native=native).generate([], Sampling(6)) == []


@families
def test_refresh_takes_over_new_weights_and_nothing_else_does(family: str, native: bool) -> None:
    model, other = tiny_model(family), tiny_model(family, seed=1)
    engine, sampling = Engine(model, native=native), Sampling(10, temperature=0.0)
    before = responses(engine.generate(PROMPTS, sampling))
    with torch.no_grad():
        for parameter, new in zip(model.parameters(), other.parameters(), strict=True):
            parameter.copy_(new)
    assert responses(engine.generate(PROMPTS, sampling)) == before
    engine.refresh()
    after = responses(engine.generate(PROMPTS, sampling))
    assert after == responses(Engine(other, native=native).generate(PROMPTS, sampling)) != before


def test_generating_leaves_the_models_gradients_and_weights_alone(native: bool) -> None:
    model = tiny_model()
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    Engine(model, native=native).generate(PROMPTS, Sampling(4))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_rollouts_remember_how_they_were_made(native: bool) -> None:
    engine = Engine(tiny_model(), native=native)
    (rollout,) = engine.generate([[1, 2]], Sampling(3, temperature=0.6, seed=11))
    assert (rollout.temperature, rollout.seed, rollout.weights) == (0.6, 11, engine.weights_name)
    assert replace(rollout, seed=0) != rollout


def test_weights_are_named_by_their_content() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    engine, twin = Engine(model), Engine(tiny_model(), native=False)
    first = engine.weights_name
    assert first == twin.weights_name
    engine.load(other)
    assert engine.weights_name == Engine(other).weights_name != first
    engine.load({name: each.detach().clone() for name, each in model.named_parameters()})
    assert engine.weights_name == first
    with torch.no_grad():
        model.norm.weight[3] += 1e-6
    assert engine.weights_name == first
    engine.refresh()
    assert engine.weights_name != first


def test_weights_of_another_shape_are_refused_and_change_nothing(native: bool) -> None:
    engine = Engine(tiny_model(), native=native)
    name, before = engine.weights_name, engine.generate(PROMPTS, Sampling(4))
    for wrong, message in ((tiny_model(layers=3), "blocks.2"), (tiny_model(vocab_size=98), r"embedding.*\(98, 32\)")):
        with pytest.raises(TrineError, match=message):
            engine.load(wrong)
    with pytest.raises(TrineError, match=r"attention.k_norm is missing"):
        engine.load({})
    assert engine.weights_name == name
    assert engine.generate(PROMPTS, Sampling(4)) == before


# Groups


def test_samples_of_a_prompt_are_a_group_and_are_sampled_as_the_prompt_repeated(native: bool) -> None:
    engine, sampling = Engine(tiny_model(), rows=3, native=native), Sampling(8, seed=5)
    grouped = engine.generate(PROMPTS[:3], sampling, samples=4)
    assert [(each.prompt_index, each.sample) for each in grouped] == [(i, j) for i in range(3) for j in range(4)]
    repeated = engine.generate([prompt for prompt in PROMPTS[:3] for _ in range(4)], sampling)
    assert responses(grouped) == responses(repeated)
    assert [each.prompt_index for each in repeated] == list(range(12))


def test_with_a_sampling_for_each_prompt_the_first_sample_is_the_one_it_gets_alone(native: bool) -> None:
    engine, settings = Engine(tiny_model(), native=native), [Sampling(8, seed=seed) for seed in (4, 4, 9)]
    grouped = responses(engine.generate(PROMPTS[:3], settings, samples=3))
    assert grouped[::3] == responses(engine.generate(PROMPTS[:3], settings))
    assert len(set(grouped)) == 9
    with pytest.raises(TrineError, match="samples=0"):
        engine.generate(PROMPTS, settings[0], samples=0)


def test_progress_is_told_of_every_rollout_once(native: bool) -> None:
    heard: list[int] = []
    Engine(tiny_model(), rows=3, native=native).generate(PROMPTS, Sampling(2), on_finished=heard.append)
    assert sum(heard) == 8
