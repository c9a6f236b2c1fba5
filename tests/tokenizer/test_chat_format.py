"""The chat format: the ids transformers' template gives, and a loss mask of exactly answer and end token."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny import tiny_chat, tiny_tokenizer
from trine.records import Message
from trine.tokenizer.bpe import SPECIAL_TOKENS

QUESTION = Message("user", "What is the number?")
CONVERSATIONS = [
    (QUESTION,),
    (Message("system", "Be brief."), QUESTION),
    (QUESTION, Message("assistant", "It is 4."), Message("user", "And the next?")),
    (Message("user", ""),),
    (Message("user", "  def f(x):\n\n    return x  \n"),),
    (Message("user", "日本語 👍🏽 naïve"), Message("assistant", "ok"), Message("user", "\n\nagain")),
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(folder)
    return AutoTokenizer.from_pretrained(folder)


def template_ids(theirs: PreTrainedTokenizerBase, messages: tuple[Message, ...], opened: bool) -> list[int]:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return theirs.apply_chat_template(turns, add_generation_prompt=opened, return_dict=False)


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_prompt_ids_are_those_of_the_template(theirs: PreTrainedTokenizerBase, messages: tuple[Message, ...]) -> None:
    assert tiny_chat().prompt_ids(messages) == template_ids(theirs, messages, True)


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_prompt_and_answer_are_the_template_of_both_up_to_the_end_token(
    theirs: PreTrainedTokenizerBase, messages: tuple[Message, ...]
) -> None:
    span = tiny_chat().example(messages, "It is 5.\nSure.")
    whole = template_ids(theirs, (*messages, Message("assistant", "It is 5.\nSure.")), False)
    newline = tiny_tokenizer().encode("\n")
    assert [*span.ids, *newline] == whole


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_exactly_the_answer_and_its_end_token_are_trained(question: str, answer: str, ended: bool) -> None:
    chat = tiny_chat()
    span = chat.example([Message("user", question)], answer, ended=ended)
    trained = [token_id for token_id, counts in zip(span.ids, span.trained, strict=True) if counts]
    assert trained == chat.tokenizer.encode(answer) + ([3] if ended else [])
    assert list(span.trained) == sorted(span.trained)
    assert list(span.ids[: -len(trained)] if trained else span.ids) == chat.prompt_ids([Message("user", question)])


def test_the_prompt_has_the_same_ids_whether_an_answer_follows_or_is_to_be_sampled() -> None:
    chat = tiny_chat()
    for answer in ("x", " x", "\nx", "", "  "):
        assert list(chat.example([QUESTION], answer).ids[: len(chat.prompt_ids([QUESTION]))]) == chat.prompt_ids(
            [QUESTION]
        )


def test_earlier_answers_are_context_and_not_trained() -> None:
    chat = tiny_chat()
    messages = (QUESTION, Message("assistant", "It is 4."), Message("user", "And the next?"))
    span = chat.example(messages, "5")
    assert sum(span.trained) == len(chat.tokenizer.encode("5")) + 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=5))))
def test_what_a_user_types_opens_and_closes_no_turn(pieces: list[str]) -> None:
    ids = tiny_chat().prompt_ids([Message("user", "".join(pieces))])
    assert [token_id for token_id in ids if token_id < 4] == [2, 3, 2]


def test_what_an_answer_says_ends_no_turn() -> None:
    chat = tiny_chat()
    assert chat.response_ids("a <|im_end|> b").count(chat.end_id) == 1


def test_the_text_of_a_response_is_the_answer() -> None:
    chat = tiny_chat()
    assert chat.text(chat.response_ids("It is 5.\n")) == "It is 5.\n"
    assert chat.end_id == chat.tokenizer.special["<|im_end|>"]
