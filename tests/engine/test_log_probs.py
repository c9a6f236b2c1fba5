"""Scores of given responses against the trainer's own numbers."""

import pytest
import torch
from torch.testing import assert_close

from tests.engine.helpers import all_is_given_back, cache_of, count_tokens_read
from tests.tiny import FAMILY_NAMES, ragged_prompts, tiny_config, tiny_model
from trine.algorithms.text_log_probs import token_log_probs
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

PROMPTS = ragged_prompts((5, 1, 20, 33, 16))
RESPONSES = ragged_prompts((3, 20, 1, 16, 17), seed=50)


@torch.no_grad()
def expected_scores(model: Transformer, temperature: float) -> list[torch.Tensor]:
    scores = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        hidden = model(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
        scores.append(token_log_probs(hidden, model.output_weight, torch.tensor(response), temperature)[0])
    return scores


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_are_the_trainers_log_probs(family: str, temperature: float, native: bool) -> None:
    model = tiny_model(family)
    engine = Engine(model, rows=2, native=native)
    scores = engine.log_probs(PROMPTS, RESPONSES, temperature)
    for found, expected in zip(scores, expected_scores(model, temperature), strict=True):
        assert_close(torch.tensor(found), expected, atol=3e-5, rtol=0)
    assert all_is_given_back(engine)


@pytest.mark.parametrize("most", [1, 7, 40])
def test_however_the_rows_are_cut_into_calls(most: int, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Engine(tiny_model(), native=native).log_probs(PROMPTS, RESPONSES)
    monkeypatch.setattr("trine.engine.log_probs.MAX_TOKENS", most)
    small = Engine(tiny_model(), native=native, cache_bytes=cache_of(tiny_config(), 4))
    for found, expected in zip(small.log_probs(PROMPTS, RESPONSES), whole, strict=True):
        assert_close(torch.tensor(found), torch.tensor(expected), atol=3e-5, rtol=0)


def test_what_was_sampled_scores_as_it_was_reported(native: bool) -> None:
    engine = Engine(tiny_model(), native=native)
    rollouts = engine.generate(PROMPTS, Sampling(12, seed=3))
    scores = engine.log_probs(PROMPTS, [rollout.response_ids for rollout in rollouts])
    for found, rollout in zip(scores, rollouts, strict=True):
        assert_close(torch.tensor(found), torch.tensor(rollout.log_probs), atol=1e-5, rtol=0)


def test_more_rows_of_logits_than_fit_at_once_are_scored_in_parts(needs_native: None) -> None:
    prompts, responses = ragged_prompts((4,) * 40), ragged_prompts((20,) * 40, seed=90)
    native, plain = (
        Engine(tiny_model(), rows=1, native=value).log_probs(prompts, responses) for value in (True, False)
    )
    assert_close(torch.tensor(native), torch.tensor(plain), atol=1e-5, rtol=0)


def test_prompts_and_responses_the_model_cannot_read_are_refused(native: bool) -> None:
    engine = Engine(tiny_model(), native=native)
    for prompt, response, message in (
        ([], [1], "prompt 0 is empty"),
        ([1], [], "response 0 is empty"),
        ([1], [97], "97"),
        ([1] * 60, [1] * 6, "context of 64"),
    ):
        with pytest.raises(TrineError, match=message):
            engine.log_probs([prompt], [response])
    with pytest.raises(TrineError, match="2 prompts come with 1 responses"):
        engine.log_probs([[1], [2]], [[1]])
    with pytest.raises(TrineError, match="cache"):
        Engine(tiny_model(), native=native, cache_bytes=cache_of(tiny_config(), 1)).log_probs([[1] * 20], [[1]])


def test_scoring_between_steps_leaves_running_requests_alone(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Engine(tiny_model(), native=native).generate(PROMPTS[:1], Sampling(30, seed=2))[0].response_ids
    engine = Engine(tiny_model(), native=native)
    read = count_tokens_read(engine, monkeypatch)
    request = engine.submit(PROMPTS[0], Sampling(30, seed=2))
    while not request.done:
        engine.step()
        engine.log_probs(PROMPTS, RESPONSES)
    assert tuple(request.ids) == alone
    assert read
