"""What changes the distribution: against transformers' own filters, against OpenAI's formula, and inside the engine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.engine.helpers import next_logits, responses
from tests.tiny import ragged_prompts, random_ids, random_tensor, tiny_model
from trine.engine.engine import Engine
from trine.engine.filters import filtered_logits
from trine.engine.sampling import Sampling
from trine.runtime.errors import TrineError

ROWS, V = 3, 50
PROMPTS = ragged_prompts((5, 40, 1, 17))
seeds = st.integers(0, 10_000)
shares = st.floats(0.01, 0.99)
temperatures = st.floats(0.2, 3.0)
penalties = st.floats(0.3, 3.0)


def given_logits(seed: int) -> Tensor:
    return random_tensor(ROWS, V, seed=seed) * 3


def theirs(logits: Tensor, ids: Tensor, *processors: LogitsProcessor) -> Tensor:
    for processor in processors:
        logits = processor(ids, logits)
    return logits


def ours(logits: Tensor, ids: Sequence[Sequence[int]] | None = None, **settings: Any) -> Tensor:
    prompts = ids or [[0]] * len(logits)
    return filtered_logits(logits, Sampling(1, **settings), prompts, [[] for _ in prompts])


def no_border_is_near(logits: Tensor, *, top_p: float = 2.0, min_p: float = -1.0) -> bool:
    """Whether no token stands where rounding decides if it is kept."""
    ordered = logits.double().softmax(-1).sort(descending=True).values
    before = ordered.cumsum(-1) - ordered
    distances = torch.stack(((before - top_p).abs(), (ordered / ordered[:, :1] - min_p).abs()))
    return float(distances.min()) > 1e-5


@given(seeds, temperatures)
def test_temperature_is_transformers(seed: int, temperature: float) -> None:
    logits = given_logits(seed)
    filtered = ours(logits, temperature=temperature, logit_bias=((0, 0.0),))
    assert_close(filtered, theirs(logits, torch.zeros(ROWS, 1).long(), TemperatureLogitsWarper(temperature)))


@given(seeds, st.integers(1, V + 10))
def test_top_k_is_transformers(seed: int, k: int) -> None:
    logits = given_logits(seed)
    assert_close(ours(logits, top_k=k), theirs(logits, torch.zeros(ROWS, 1).long(), TopKLogitsWarper(k)))


@given(seeds, shares)
def test_top_p_is_transformers(seed: int, p: float) -> None:
    logits = given_logits(seed)
    assume(no_border_is_near(logits, top_p=p))
    assert_close(ours(logits, top_p=p), theirs(logits, torch.zeros(ROWS, 1).long(), TopPLogitsWarper(p)))


@given(seeds, shares)
def test_min_p_is_transformers(seed: int, p: float) -> None:
    logits = given_logits(seed)
    assume(no_border_is_near(logits, min_p=p))
    assert_close(ours(logits, min_p=p), theirs(logits, torch.zeros(ROWS, 1).long(), MinPLogitsWarper(p)))


@given(seeds, penalties)
def test_the_repetition_penalty_is_transformers_over_prompt_and_response(seed: int, penalty: float) -> None:
    logits, ids = given_logits(seed), random_ids(ROWS, 12, vocab_size=V, seed=seed)
    expected = theirs(logits, ids, RepetitionPenaltyLogitsProcessor(penalty))
    settings = Sampling(1, repetition_penalty=penalty)
    for split in (1, 7, 12):
        prompts, answers = ids[:, :split].tolist(), ids[:, split:].tolist()
        assert_close(filtered_logits(logits, settings, prompts, answers), expected)


@given(seeds, penalties, temperatures, st.integers(1, V), shares, shares)
def test_all_together_act_in_transformers_order(
    seed: int, penalty: float, temperature: float, k: int, top_p: float, min_p: float
) -> None:
    logits, ids = given_logits(seed), random_ids(ROWS, 12, vocab_size=V, seed=seed)
    processors = [
        RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature), TopKLogitsWarper(k),
    ]  # fmt: skip
    scores = theirs(logits, ids, *processors)
    assume(no_border_is_near(scores, top_p=top_p))
    scores = theirs(scores, ids, TopPLogitsWarper(top_p))
    assume(no_border_is_near(scores, min_p=min_p))
    filtered = ours(
        logits, ids.tolist(), repetition_penalty=penalty, temperature=temperature, top_k=k, top_p=top_p, min_p=min_p
    )
    assert_close(filtered, theirs(scores, ids, MinPLogitsWarper(min_p)))


@given(seeds, st.floats(-2, 2), st.floats(-2, 2))
def test_frequency_and_presence_penalties_are_openais_over_the_response(
    seed: int, frequency: float, presence: float
) -> None:
    """mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, c over what was sampled before."""
    logits = given_logits(seed)
    answers = [random_ids(length, vocab_size=6, seed=seed).tolist() for length in (0, 1, 12)]
    settings = Sampling(1, frequency_penalty=frequency, presence_penalty=presence, logit_bias=((9, 0.0),))
    filtered = filtered_logits(logits, settings, [[3, 4]] * ROWS, answers)
    expected = logits.clone()
    for row, answer in zip(expected, answers, strict=True):
        for token_id, times in Counter(answer).items():
            row[token_id] -= times * frequency + presence
    assert_close(filtered, expected)


def test_logit_bias_is_added_before_temperature() -> None:
    logits = given_logits(0)
    filtered = ours(logits, logit_bias=((3, 4.0), (7, -100.0)), temperature=2.0)
    expected = logits.clone()
    expected[:, 3] += 4
    expected[:, 7] -= 100
    assert_close(filtered, expected / 2)


def test_the_given_logits_are_left_alone() -> None:
    logits = given_logits(0)
    kept = logits.clone()
    ours(logits, top_k=3, top_p=0.5, min_p=0.1, repetition_penalty=2.0, logit_bias=((3, 4.0),), temperature=0.5)
    assert torch.equal(logits, kept)


def test_what_the_constraint_forbids_is_cut_first_and_one_token_always_stays() -> None:
    logits, allowed = given_logits(0), torch.zeros(ROWS, V, dtype=torch.bool)
    allowed[:, [4, 9]] = True
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        filtered = filtered_logits(logits, Sampling(1, **settings), [[0]] * ROWS, [[]] * ROWS, allowed)
        kept = filtered.isfinite()
        assert kept.sum(1).tolist() == [1] * ROWS
        assert torch.equal(filtered.argmax(1), torch.where(logits[:, 4] > logits[:, 9], 4, 9))


# In the engine

EVERYTHING = Sampling(
    12, temperature=0.7, seed=5, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.3, frequency_penalty=0.4,
    presence_penalty=0.2, logit_bias=((3, 1.5), (8, -4.0)), top_log_probs=4,
)  # fmt: skip
FILTERS = {
    "top_k": {"top_k": 3}, "top_p": {"top_p": 0.5}, "min_p": {"min_p": 0.2},
    "repetition_penalty": {"repetition_penalty": 1.8}, "frequency_penalty": {"frequency_penalty": 1.5},
    "presence_penalty": {"presence_penalty": 2.0}, "logit_bias": {"logit_bias": ((3, 5.0), (4, -torch.inf))},
}  # fmt: skip


@pytest.mark.parametrize("settings", [EVERYTHING, *(Sampling(9, seed=5, **each) for each in FILTERS.values())])
def test_log_probs_are_of_the_filtered_distribution_and_the_models_own_are_kept_beside(
    settings: Sampling, native: bool
) -> None:
    model = tiny_model(context=128)
    for rollout in Engine(model, native=native).generate(PROMPTS, settings):
        own, filtered = [], []
        for place, token_id in enumerate(rollout.response_ids):
            said = rollout.response_ids[:place]
            logits = next_logits(model, [*rollout.prompt_ids, *said]).unsqueeze(0)
            changed = filtered_logits(logits, settings, [rollout.prompt_ids], [said])
            filtered.append(float(changed.log_softmax(1)[0, token_id]))
            own.append(float((logits / settings.temperature).log_softmax(1)[0, token_id]))
        assert_close(torch.tensor(rollout.log_probs), torch.tensor(filtered), atol=1e-4, rtol=0)
        assert_close(torch.tensor(rollout.unfiltered_log_probs), torch.tensor(own), atol=1e-4, rtol=0)


def test_without_filters_there_is_no_second_list_of_log_probs(native: bool) -> None:
    (rollout,) = Engine(tiny_model(), native=native).generate([[1, 2]], Sampling(4, top_log_probs=2))
    assert rollout.unfiltered_log_probs is None


def test_a_plain_rows_tokens_are_unchanged_by_filtered_neighbours(native: bool) -> None:
    engine, plain = Engine(tiny_model(context=128), native=native), Sampling(20, temperature=0.8, seed=3)
    (alone,) = engine.generate([PROMPTS[2]], [plain])
    mixed = engine.generate(PROMPTS, [EVERYTHING, plain, plain, replace(EVERYTHING, temperature=0.0)])
    assert mixed[2].response_ids == alone.response_ids
    assert_close(torch.tensor(mixed[2].log_probs), torch.tensor(alone.log_probs), atol=1e-5, rtol=0)


def test_a_filtered_rows_tokens_do_not_depend_on_its_company(native: bool) -> None:
    engine = Engine(tiny_model(context=128), native=native)
    (alone,) = engine.generate([PROMPTS[1]], [EVERYTHING])
    others = [Sampling(3), EVERYTHING, replace(EVERYTHING, seed=9), Sampling(20, top_k=2)]
    assert engine.generate(PROMPTS, others)[1].response_ids == alone.response_ids
    others = [EVERYTHING] * 4
    assert engine.generate(PROMPTS, others)[1].response_ids == alone.response_ids


def test_a_filter_that_keeps_everything_changes_no_token(native: bool) -> None:
    engine, plain = Engine(tiny_model(context=128), native=native), Sampling(20, seed=3)
    expected = responses(engine.generate(PROMPTS, plain))
    for filters in ({"top_k": 1000}, {"min_p": 1e-30}, {"logit_bias": ((3, 0.0),)}):
        assert responses(engine.generate(PROMPTS, replace(plain, **filters))) == expected


def test_top_k_1_is_greedy_at_any_temperature(native: bool) -> None:
    engine = Engine(tiny_model(context=128), native=native)
    greedy = responses(engine.generate(PROMPTS, Sampling(12, temperature=0.0)))
    assert responses(engine.generate(PROMPTS, Sampling(12, temperature=5.0, top_k=1))) == greedy


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias"])
def test_greedy_decoding_takes_the_likeliest_after_the_penalties(name: str, native: bool) -> None:
    model, settings = tiny_model(context=128), Sampling(12, temperature=0.0, **FILTERS[name])
    for rollout in Engine(model, native=native).generate(PROMPTS, settings):
        said: list[int] = []
        for _ in range(12):
            logits = next_logits(model, [*rollout.prompt_ids, *said]).unsqueeze(0)
            said.append(int(filtered_logits(logits, settings, [rollout.prompt_ids], [said]).argmax()))
        assert list(rollout.response_ids) == said


def test_cuts_leave_greedy_decoding_as_it_is(native: bool) -> None:
    cut = Sampling(12, temperature=0.0, top_k=3, top_p=0.5, min_p=0.5)
    assert not cut.filtered
    engine = Engine(tiny_model(context=128), native=native)
    assert responses(engine.generate(PROMPTS, cut)) == responses(
        engine.generate(PROMPTS, Sampling(12, temperature=0.0))
    )


def test_a_banned_token_is_never_said_and_a_favoured_one_always(native: bool) -> None:
    engine = Engine(tiny_model(context=128), native=native)
    often = Counter(engine.generate([[1]], Sampling(60, seed=1))[0].response_ids).most_common(1)[0][0]
    banned = engine.generate([[1]] * 8, Sampling(60, logit_bias=((often, -torch.inf),)))
    assert all(often not in ids for ids in responses(banned))
    assert set(engine.generate([[1]], Sampling(20, logit_bias=((7, 100.0),)))[0].response_ids) == {7}


@pytest.mark.parametrize("settings", [Sampling(8, seed=2, top_log_probs=5), EVERYTHING], ids=["plain", "filtered"])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_the_likeliest_tokens_are_reported_in_order_from_the_models_own_distribution(
    settings: Sampling, temperature: float, native: bool
) -> None:
    model = tiny_model(context=128)
    engine, settings = Engine(model, native=native), replace(settings, temperature=temperature)
    request = engine.submit(PROMPTS[1], settings)
    while not request.done:
        engine.step()
    assert len(request.top_log_probs) == len(request.ids)
    for place, reported in enumerate(request.top_log_probs):
        own = (next_logits(model, [*PROMPTS[1], *request.ids[:place]]) / (temperature or 1.0)).log_softmax(0)
        values, ids = own.topk(settings.top_log_probs)
        assert [token_id for token_id, _ in reported] == ids.tolist()
        assert_close(torch.tensor([value for _, value in reported]), values, atol=1e-4, rtol=0)
        assert sorted(reported, key=lambda pair: -pair[1]) == list(reported)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": -1}, r"top_k=-1 .*0 keeps all"),
        ({"top_p": 0.0}, r"top_p=0\.0 .*1 keeps all"),
        ({"top_p": 1.5}, r"top_p=1\.5 .*1 keeps all"),
        ({"top_p": float("nan")}, r"top_p=nan"),
        ({"min_p": -0.1}, r"min_p=-0\.1 .*0 keeps all"),
        ({"min_p": 1.1}, r"min_p=1\.1"),
        ({"temperature": float("nan")}, r"temperature=nan"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0\.0 .*1 changes nothing"),
        ({"repetition_penalty": -1.0}, r"repetition_penalty=-1\.0"),
        ({"top_log_probs": -2}, r"top_log_probs=-2 .*0 reports none"),
        ({"stop_strings": ("a", "")}, r"stop_strings=.*empty string"),
    ],
)
def test_senseless_settings_are_refused_with_value_and_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TrineError, match=message):
        Sampling(4, **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty", "temperature"])
def test_numbers_that_are_none_are_refused_before_they_reach_the_logits(name: str, value: float) -> None:
    with pytest.raises(TrineError, match=name):
        Sampling(4, **{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit_bias": ((97, 1.0),)}, "97"),
        ({"logit_bias": ((-1, 1.0),)}, "-1"),
        ({"logit_bias": ((3, float("nan")),)}, "nan"),
        ({"logit_bias": ((3, float("inf")),)}, "inf"),
        ({"top_log_probs": 98}, "98"),
    ],
)
def test_settings_the_model_cannot_follow_are_refused_before_they_start(
    settings: dict[str, Any], message: str, native: bool
) -> None:
    """Later they would take the whole batch with them."""
    engine = Engine(tiny_model(), native=native)
    with pytest.raises(TrineError, match=message):
        engine.submit([1], Sampling(4, **settings))
    assert len(engine.generate([[1]], Sampling(4))) == 1
