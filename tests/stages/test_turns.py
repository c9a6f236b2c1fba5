"""Conversations of several turns: what the policy wrote is learned from, what others wrote is only read."""

import pytest
import torch
from torch.testing import assert_close

from tests.stages import talkers
from tests.tiny import make_likely, rollout, tiny_chat, tiny_config, tiny_model, tiny_tokenizer
from trine.algorithms.text_rewards import token_rewards
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.records import Message, Rollout
from trine.runtime.errors import TrineError
from trine.stages.rl.experience import pad_rollouts, response_mask
from trine.stages.rl.ppo import gae_of_responses
from trine.stages.rl.prompts import Prompt
from trine.stages.rl.turns import further_turns, ids_between
from trine.stages.rl.user import User, import_user

CHAT = tiny_chat()
END = CHAT.end_id
BUDGET = 6
TURNS = Rollout((2,), (20, END, 30, 31, 21, END), (-1.0, -2.0, 0.0, 0.0, -3.0, -4.0), "eos",
                written=(True, True, False, False, True, True))  # fmt: skip


def prompts_of(*questions: str, **columns: str) -> list[Prompt]:
    messages = [(Message("user", question),) for question in questions]
    return [Prompt(tuple(CHAT.prompt_ids(each)), each, columns) for each in messages]


def engine_of(context: int = 256, ending: float = 1.5) -> Engine:
    """A model some of whose turns end within the budget; with an `ending` of 3 all do."""
    model = tiny_model(tiny_config("gpt2", vocab_size=320, context=context))
    make_likely(model, END, ending)
    return Engine(model, rows=8, tokenizer=tiny_tokenizer())


def talked(
    user: str, max_turns: int = 3, engine: Engine | None = None, **settings: object
) -> tuple[list[Rollout], list[Prompt]]:
    sampling = Sampling(BUDGET, seed=3, eos_ids=CHAT.end_ids, **settings)  # type: ignore[arg-type]
    prompts = prompts_of("One?", "Two?", "Three?", "Four?", "Five?", "Six?", "Seven?", "Eight?", answer="no such words")
    user_of = import_user(f"tests.stages.talkers:{user}")
    engine = engine or engine_of()
    first = engine.generate([prompt.ids for prompt in prompts], sampling)
    return further_turns(engine, CHAT, first, prompts, sampling, user_of, max_turns)


def test_what_the_policy_did_not_write_is_in_no_mask_and_no_flat_tensor() -> None:
    other = rollout([2, 9], [30, END])
    assert response_mask([TURNS, other]).tolist() == [
        [True, True, False, False, True, True], [True, True, False, False, False, False],
    ]  # fmt: skip
    padded = pad_rollouts([TURNS, other], 1, torch.device("cpu"))
    assert padded.targets.tolist() == [20, END, 21, END, 30, END]
    assert list(zip(padded.rows.tolist(), padded.columns.tolist(), strict=True)) == [
        (0, 0), (0, 1), (0, 4), (0, 5), (1, 1), (1, 2),
    ]  # fmt: skip


def test_the_golden_vector_of_several_turns() -> None:
    """Checklist, section 1: gamma .9, lambda .8, beta .1; of four written tokens the third follows the second directly.

    r = [-.01, -.02, -.03, 1 - .04]; A4 = .96 - .4 = .56; A3 = -.03 + .9 x .4 - .3 + .72 x .56 = .4332;
    A2 = -.02 + .9 x .3 - .2 + .72 x .4332 = .361904; A1 = -.01 + .9 x .2 - .1 + .72 x .361904 = .33057088.
    """
    mask = response_mask([TURNS])
    nan = float("nan")
    ratios = torch.tensor([[0.1, 0.2, nan, nan, 0.3, 0.4]])
    values = torch.tensor([[0.1, 0.2, nan, 55.0, 0.3, 0.4]])
    rewards = token_rewards(torch.tensor([1.0]), ratios, mask, 0.1)
    assert_close(rewards, torch.tensor([[-0.01, -0.02, 0.0, 0.0, -0.03, 0.96]]))
    advantages, returns = gae_of_responses(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    expected = torch.tensor([[0.33057088, 0.361904, 0.0, 0.0, 0.4332, 0.56]])
    assert_close(returns, torch.where(mask, expected + values, 0.0))
    spread = (expected[mask] - expected[mask].mean()) / expected[mask].std(unbiased=False)
    assert_close(advantages[mask], spread)
    assert not advantages[~mask].any()


def test_a_conversation_is_one_rollout_and_its_marks_are_the_chat_formats() -> None:
    """The ids of the whole are those that the chat format writes of the messages, where these encode as sampled."""
    rollouts, last = talked("curious")
    turns = [sum(message.role == "assistant" for message in prompt.messages) + 1 for prompt in last]
    assert max(turns) == 3
    for one, prompt, count in zip(rollouts, last, turns, strict=True):
        assert one.written is None or len(one.written) == len(one.response_ids)
        assert len(one.log_probs) == len(one.response_ids)
        whole = (*one.prompt_ids, *one.response_ids)
        assert whole[: len(prompt.ids)] == prompt.ids
        assert prompt.messages[0].content.endswith("?")
        if count > 1:
            between = ids_between(CHAT, prompt.messages[:-2], prompt.messages[-1])
            assert list(prompt.ids[-len(between) :]) == between
        first = one.response_ids.index(END) if END in one.response_ids else len(one.response_ids) - 1
        assert one.written_places[: first + 1] == tuple(range(first + 1))


def test_the_unwritten_tokens_have_a_log_probability_of_zero_and_the_written_those_of_the_engine() -> None:
    rollouts, _ = talked("curious")
    engine = engine_of()
    for one in rollouts:
        scored = engine.log_probs([one.prompt_ids], [one.response_ids])[0]
        for place, (found, written) in enumerate(zip(one.log_probs, one.written or (), strict=False)):
            assert found == (pytest.approx(scored[place], abs=1e-4) if written else 0.0)


def test_a_reward_sees_the_last_turn_after_the_conversation_so_far() -> None:
    rollouts, last = talked("curious")
    for one, prompt in zip(rollouts, last, strict=True):
        answer = prompt.answer(one, CHAT)
        assert answer.prompt == prompt.messages
        assert answer.prompt_ids + answer.response_ids == one.prompt_ids + one.response_ids
        assert answer.response == CHAT.text(answer.response_ids)
        assert len(answer.response_ids) <= BUDGET


def test_a_user_who_is_content_ends_the_conversation_and_one_turn_is_as_without_a_user() -> None:
    rollouts, _ = talked("silent")
    sampling = Sampling(BUDGET, seed=3, eos_ids=CHAT.end_ids)
    alone = engine_of().generate([one.prompt_ids for one in rollouts], sampling)
    assert rollouts == alone
    assert talked("curious", max_turns=1)[0] == alone


def test_a_turn_that_is_cut_ends_the_conversation_as_cut() -> None:
    rollouts, last = talked("curious", max_turns=9)
    assert len({len(prompt.messages) for prompt in last}) > 1
    for one, prompt in zip(rollouts, last, strict=True):
        if not one.ended:
            assert len(one.response_ids) + len(one.prompt_ids) - len(prompt.ids) == BUDGET


def test_a_conversation_that_fills_the_context_counts_as_cut() -> None:
    rollouts, _ = talked("exacting", max_turns=99, engine=engine_of(64, ending=3.0))
    full = [one for one in rollouts if one.stop_reason == "length" and one.response_ids[-1] == END]
    assert full
    assert all(len(one.prompt_ids) + len(one.response_ids) <= 64 for one in rollouts)


def test_what_a_stop_string_cut_is_closed_by_an_end_token_that_the_policy_did_not_write() -> None:
    rollouts, last = talked("curious", stop_strings=tuple("aeiorstn"), max_turns=3)
    stopped = [
        (one, prompt) for one, prompt in zip(rollouts, last, strict=True)
        if len(prompt.messages) > 1 and one.response_ids[first_unwritten(one)] == END
    ]  # fmt: skip
    assert stopped
    for one, prompt in stopped:
        assert not one.written[first_unwritten(one)]  # type: ignore[index]
        assert not any(stop in prompt.messages[1].content for stop in "aeiorstn")


def first_unwritten(one: Rollout) -> int:
    return (one.written or ()).index(False)


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    class Rewriting:
        """As `tiny_chat`, but an answer is left out once another message follows."""

        def prompt_ids(self, messages: list[Message]) -> list[int]:
            return CHAT.prompt_ids([message for message in messages if message.role == "user"])

        def response_ids(self, text: str) -> list[int]:
            return CHAT.response_ids(text)

    with pytest.raises(TrineError, match="use max_turns=1, or a template that only appends"):
        ids_between(Rewriting(), [Message("user", "a")], Message("user", "b"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("rude", "returned 7; it has to return the user's next message"),
        ("broken", "raised ZeroDivisionError: division by zero"),
        ("exacting", "asks for the field 'answer', which a prompt's record does not have"),
    ],
)
def test_what_a_user_may_not_do_is_named(user: str, words: str) -> None:
    with pytest.raises(TrineError, match=words):
        User(getattr(talkers, user), f"talkers:{user}").reply([Message("user", "a"), Message("assistant", "b")], {})


@pytest.mark.parametrize(
    "name", ["no_such_module:user", "tests.stages.talkers:nobody", "tests.stages.talkers:__name__"]
)
def test_a_user_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(TrineError, match=r"write package.module:function"):
        import_user(name)
