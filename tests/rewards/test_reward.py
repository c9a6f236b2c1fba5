"""What judges: the reward model on ids, a Python function on text."""

import sys
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import rollout, tiny_chat, tiny_score_model, tiny_tokenizer
from trine.records import Rollout, StopReason
from trine.rewards import reward as module
from trine.rewards.reward import FunctionReward, ModelReward, import_function
from trine.runtime.errors import TrineError

END = 3


def model_reward() -> ModelReward:
    return ModelReward(tiny_score_model("gpt2", vocab_size=320), tiny_tokenizer())


def answer(text: str, *, ended: bool = True) -> Rollout:
    chat = tiny_chat()
    return rollout([2, 7, 3, 9], chat.response_ids(text, ended=ended), "eos" if ended else "length")


def render(rollout: Rollout) -> tuple[str, str]:
    return tiny_tokenizer().decode(rollout.prompt_ids), tiny_tokenizer().decode(rollout.response_ids)


def score_of(ids: list[int]) -> float:
    model = tiny_score_model("gpt2", vocab_size=320)
    return float(model(torch.tensor([ids]), torch.tensor([len(ids) - 1])).detach())


ROLLOUTS = [
    answer("It is 4."),
    answer("yes"),
    answer("first\nsecond line cut", ended=False),
    answer(""),
    answer("the number is 4 and the next number is 5\n" * 2),
]


def test_the_score_is_read_at_the_end_token() -> None:
    (score,) = model_reward().score([ROLLOUTS[0]], render)
    ids = [2, 7, 3, 9, *tiny_tokenizer().encode("It is 4."), END]
    assert float(score) == pytest.approx(score_of(ids), abs=1e-5)


def test_a_score_does_not_depend_on_what_else_is_scored_nor_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = torch.cat([model_reward().score([one], render) for one in ROLLOUTS])
    assert_close(model_reward().score(ROLLOUTS, render), alone, atol=1e-5, rtol=0)
    assert_close(model_reward().score(ROLLOUTS[::-1], render).flip(0), alone, atol=1e-5, rtol=0)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    assert_close(model_reward().score(ROLLOUTS, render), alone, atol=1e-5, rtol=0)
    assert len(alone.unique()) == len(ROLLOUTS)


def test_an_ended_response_is_shown_as_it_is() -> None:
    assert model_reward().closed_response(ROLLOUTS[0]) == list(ROLLOUTS[0].response_ids)


def test_a_cut_response_is_shown_up_to_its_last_whole_line_and_closed() -> None:
    assert model_reward().closed_response(ROLLOUTS[2]) == [*tiny_tokenizer().encode("first"), END]


@pytest.mark.parametrize("reason, last", [("stop", 7), ("eos", 0), ("eos", END)])
def test_whatever_ended_an_answer_the_reward_sees_the_end_it_was_trained_on(reason: StopReason, last: int) -> None:
    assert model_reward().closed_response(rollout([2], [50, 60, last], reason)) == [50, 60, END]


def test_an_end_token_in_the_prompt_changes_nothing_about_a_cut_response() -> None:
    cut = rollout([2, END, 2, END], [50, 60], "length")
    assert float(model_reward().score([cut], render)) == pytest.approx(score_of([2, END, 2, END, 50, END]), abs=1e-5)


def test_scoring_trains_nothing() -> None:
    reward = model_reward()
    assert not reward.score(ROLLOUTS, render).requires_grad
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())


def test_a_function_reads_texts_and_its_numbers_are_the_scores() -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def length(prompts: list[str], answers: list[str]) -> list[int]:
        seen.append((prompts, answers))
        return [len(text) for text in answers]

    scores = FunctionReward(length, "length").score(ROLLOUTS[:2], render)
    assert scores.tolist() == [8.0, 3.0]
    assert scores.dtype == torch.float32
    assert seen[0][1] == ["It is 4.", "yes"]


@pytest.mark.parametrize("returned", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")], [float("inf"), 0.0], []])
def test_anything_but_one_finite_number_per_response_is_refused_by_name(returned: list[float]) -> None:
    reward = FunctionReward(lambda prompts, answers: returned, "package:odd")
    with pytest.raises(TrineError, match="reward package:odd returned"):
        reward.score(ROLLOUTS[:2], render)


def test_a_function_is_imported_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("my_rewards")
    mine.zero = lambda prompts, answers: [0.0] * len(answers)
    monkeypatch.setitem(sys.modules, "my_rewards", mine)
    assert import_function("my_rewards:zero").score(ROLLOUTS, render).tolist() == [0.0] * len(ROLLOUTS)


@pytest.mark.parametrize("name", ["no_such_module:score", "math:no_such_function", "math:", ":score", ""])
def test_a_function_that_cannot_be_imported_is_refused_with_the_form_to_write(name: str) -> None:
    with pytest.raises(TrineError, match=r"write package.module:function"):
        import_function(name)


def test_a_cut_answer_of_one_line_is_closed_without_growing() -> None:
    cut = answer("one line that has no end", ended=False)
    assert model_reward().closed_response(cut) == [*cut.response_ids[:-1], END]


def test_a_policy_of_another_tokenizer_or_longer_rows_is_refused() -> None:
    reward = model_reward()
    reward.check_reads(tiny_tokenizer(), 64, "runs/reward")
    with pytest.raises(TrineError, match="runs/reward has another tokenizer"):
        reward.check_reads(tiny_tokenizer(300), 64, "runs/reward")
    with pytest.raises(TrineError, match="runs/reward reads 64 tokens, the policy's rows have up to 65"):
        reward.check_reads(tiny_tokenizer(), 65, "runs/reward")
