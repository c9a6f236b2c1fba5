"""What judges: the reward model on ids, a Python function on text."""

import sys
from types import ModuleType

import pytest
import torch

from tests.tiny import tiny_chat, tiny_score_model, tiny_tokenizer
from trine.records import Answer, Message
from trine.rewards import batches
from trine.rewards.function import FunctionReward, import_function
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError

END = 3


def model_reward() -> ModelReward:
    return ModelReward(tiny_score_model("gpt2", vocab_size=320), tiny_tokenizer(), "line")


def answer(text: str, *, ended: bool = True, **columns: object) -> Answer:
    """With the ids of a prompt of its own, as a policy's answer has them."""
    ids = tuple(tiny_chat().response_ids(text, ended=ended))
    prompt = (Message("user", "What is the number?"),)
    return Answer(prompt, text, ended, (2, 7, 3, 9), ids, tiny_tokenizer().fingerprint, columns)


def of_ids(prompt_ids: tuple[int, ...], response_ids: tuple[int, ...]) -> Answer:
    """One that did not end."""
    return Answer((), "", False, prompt_ids, response_ids, tiny_tokenizer().fingerprint)


def score_of(ids: list[int]) -> float:
    model = tiny_score_model("gpt2", vocab_size=320)
    return float(model(torch.tensor([ids]), torch.tensor([len(ids) - 1])).detach())


ANSWERS = [
    answer("It is 4."),
    answer("yes"),
    answer("first\nsecond line cut", ended=False),
    answer(""),
    answer("the number is 4 and the next number is 5\n" * 2),
]


def test_the_score_is_read_at_the_end_token() -> None:
    (score,) = model_reward().score([ANSWERS[0]])
    ids = [2, 7, 3, 9, *tiny_tokenizer().encode("It is 4."), END]
    assert float(score) == pytest.approx(score_of(ids), abs=1e-5)


def test_a_score_does_not_depend_on_what_else_is_scored_nor_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = torch.cat([model_reward().score([one]) for one in ANSWERS])
    assert torch.equal(model_reward().score(ANSWERS), alone)
    assert torch.equal(model_reward().score(ANSWERS[::-1]).flip(0), alone)
    monkeypatch.setattr(batches, "ROWS_AT_ONCE", 2)
    assert torch.equal(model_reward().score(ANSWERS), alone)
    assert len(alone.unique()) == len(ANSWERS)


def test_an_ended_response_is_shown_as_it_is() -> None:
    assert model_reward().closed_response(ANSWERS[0].response_ids, ended=True) == list(ANSWERS[0].response_ids)


def test_a_cut_response_is_shown_up_to_its_last_whole_line_and_closed() -> None:
    assert model_reward().closed_response(ANSWERS[2].response_ids, ended=False) == [
        *tiny_tokenizer().encode("first"),
        END,
    ]


@pytest.mark.parametrize("last", [7, 0, END])
def test_whatever_ended_an_answer_the_reward_sees_the_end_it_was_trained_on(last: int) -> None:
    assert model_reward().closed_response([50, 60, last], ended=True) == [50, 60, END]


def test_an_end_token_in_the_prompt_changes_nothing_about_a_cut_response() -> None:
    cut = of_ids((2, END, 2, END), (50, 60))
    assert float(model_reward().score([cut])) == pytest.approx(score_of([2, END, 2, END, 50, END]), abs=1e-5)


def test_scoring_trains_nothing() -> None:
    reward = model_reward()
    assert not reward.score(ANSWERS).requires_grad
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())


def test_a_function_reads_texts_and_its_numbers_are_the_scores() -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def length(prompts: list[str], answers: list[str]) -> list[int]:
        seen.append((prompts, answers))
        return [len(text) for text in answers]

    scores = FunctionReward(length, "length").score(ANSWERS[:2])
    assert scores.tolist() == [8.0, 3.0]
    assert scores.dtype == torch.float32
    assert seen[0][1] == ["It is 4.", "yes"]


@pytest.mark.parametrize("returned", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")], [float("inf"), 0.0], []])
def test_anything_but_one_finite_number_per_response_is_refused_by_name(returned: list[float]) -> None:
    reward = FunctionReward(lambda prompts, answers: returned, "package:odd")
    with pytest.raises(TrineError, match="reward package:odd returned"):
        reward.score(ANSWERS[:2])


def test_a_function_is_imported_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("my_rewards")
    mine.zero = lambda prompts, answers: [0.0] * len(answers)
    monkeypatch.setitem(sys.modules, "my_rewards", mine)
    assert import_function("my_rewards:zero").score(ANSWERS).tolist() == [0.0] * len(ANSWERS)


@pytest.mark.parametrize("name", ["no_such_module:score", "math:no_such_function", "math:", ":score", ""])
def test_a_function_that_cannot_be_imported_is_refused_with_the_form_to_write(name: str) -> None:
    with pytest.raises(TrineError, match=r"write package.module:function"):
        import_function(name)


def test_a_cut_answer_of_one_line_is_closed_without_growing() -> None:
    cut = answer("one line that has no end", ended=False)
    assert model_reward().closed_response(cut.response_ids, ended=False) == [*cut.response_ids[:-1], END]


def test_rows_longer_than_the_reward_model_reads_are_refused() -> None:
    reward = model_reward()
    reward.check_reads(tiny_tokenizer(), 64, "runs/reward")
    with pytest.raises(TrineError, match="runs/reward reads 64 tokens, the policy's rows have up to 65"):
        reward.check_reads(tiny_tokenizer(), 65, "runs/reward")
    with pytest.raises(TrineError, match="more than the 64 that the reward model reads"):
        reward.score([answer("the number is 4 " * 40)])


def test_an_answer_of_another_tokenizer_is_read_as_text() -> None:
    """Ids of another tokenizer mean nothing here; the messages and the text do."""
    foreign = tiny_tokenizer(300).fingerprint
    messages, text = (Message("user", "Add."),), "It is 4."
    read = model_reward().score([Answer(messages, text, True, (9, 9), (8, 8), foreign), Answer(messages, text)])
    chat = tiny_chat()
    expected = score_of([*chat.prompt_ids(messages), *chat.response_ids(text)])
    assert read.tolist() == pytest.approx([expected, expected], abs=1e-5)


def test_a_cut_answer_read_as_text_is_closed_as_one_of_ids_is() -> None:
    messages, chat = (Message("user", "Add."),), tiny_chat()
    read = model_reward().score([Answer(messages, "first\nsecond line cut", ended=False)])
    expected = score_of([*chat.prompt_ids(messages), *tiny_tokenizer().encode("first"), END])
    assert float(read) == pytest.approx(expected, abs=1e-5)


def test_a_function_gets_the_prompts_text_and_not_the_chat_template() -> None:
    seen: list[list[str]] = []

    def keep(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append(prompts)
        return [0.0] * len(responses)

    several = Answer((Message("system", "Be brief."), Message("user", "Add.")), "4")
    FunctionReward(keep, "keep").score([answer("yes"), several])
    assert seen == [["What is the number?", "system: Be brief.\n\nuser: Add."]]


def test_a_function_gets_messages_and_fields_of_the_records_by_name() -> None:
    def equal(prompts: list[str], responses: list[str], solution: list[str], messages: list[object]) -> list[bool]:
        assert messages[0] == [{"role": "user", "content": "What is the number?"}]
        return [one == other for one, other in zip(responses, solution, strict=True)]

    answers = [answer("4", solution="4"), answer("5", solution="4")]
    assert FunctionReward(equal, "equal").score(answers).tolist() == [1.0, 0.0]


def test_a_function_may_take_all_fields_or_have_defaults() -> None:
    def everything(prompts: list[str], responses: list[str], **columns: list[object]) -> list[int]:
        assert columns == {"level": [1, None], "topic": [None, "sums"]}
        return [len(columns)] * len(responses)

    def optional(prompts: list[str], responses: list[str], level: object = None) -> list[float]:
        return [0.0 if level is None else 1.0] * len(responses)

    assert FunctionReward(everything, "f").score([answer("a", level=1), answer("b", topic="sums")]).tolist() == [2, 2]
    assert FunctionReward(optional, "f").score([answer("a")]).tolist() == [0.0]
    assert FunctionReward(optional, "f").score([answer("a", level=3)]).tolist() == [1.0]


def test_a_field_named_like_the_two_lists_does_not_stand_in_their_way() -> None:
    def count(prompts: list[str], responses: list[str], **columns: list[object]) -> list[int]:
        return [len(columns)] * len(responses)

    assert FunctionReward(count, "count").score([answer("a", responses="theirs", level=1)]).tolist() == [1.0]


def test_a_field_that_a_record_lacks_is_named() -> None:
    def equal(prompts: list[str], responses: list[str], solution: list[str]) -> list[float]:
        return [1.0] * len(responses)

    with pytest.raises(TrineError, match=r"reward equal asks for the field 'solution'.*\(it has answer\).*What is"):
        FunctionReward(equal, "equal").score([answer("a", answer="4")])
