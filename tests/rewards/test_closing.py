"""1.23: a cut answer is shown to a reward model as its kind of text asks for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_chat, tiny_score_model, tiny_tokenizer
from trine.records import Answer, Closing
from trine.rewards.closing import closed_ids, closing_of
from trine.rewards.model import ModelReward

END, NEWLINE = 3, 7
CODE = "for number in range(10):\n    total += number\n\nreturn total"
PROSE = "A short line.\n" + "And then come six phrases, one after the other, " * 6


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(4, 9), max_size=20), st.sampled_from(["line", "end", "as_is"]))
def test_a_closed_answer_is_a_beginning_of_the_cut_one_and_never_longer(ids: list[int], closing: Closing) -> None:
    """1.23: prose lost all but 5 of 61 tokens to a rule for code."""
    closed = closed_ids(ids, END, {NEWLINE}, closing)
    assert len(closed) <= max(len(ids), 1)
    if closing == "as_is" and ids:
        assert closed == ids
        return
    kept = closed[:-1]
    assert closed[-1] == END and kept == ids[: len(kept)]
    if closing == "end":
        assert len(closed) == max(len(ids), 1)
    elif NEWLINE in ids[1:]:
        assert ids[len(kept)] == NEWLINE and NEWLINE not in ids[len(kept) + 1 :]


@pytest.mark.parametrize(
    ("texts", "closing"),
    [
        ([CODE], "line"), ([CODE] * 3 + ["return 1"] * 9, "line"), ([PROSE], "end"), ([PROSE, CODE], "end"),
        (["one line of prose, however long it may be. " * 20], "end"), (["Yes.", "No."], "end"), ([], "end"),
        (["", "\n\n"], "end"), (["- eggs\n- flour\n- a little milk"], "line"),
    ],
)  # fmt: skip
def test_the_kind_of_text_decides(texts: list[str], closing: str) -> None:
    """1.23"""
    assert closing_of(texts) == closing


@pytest.mark.parametrize("closing", ["line", "end", "as_is"])
def test_a_reward_model_reads_what_its_folder_or_its_caller_says(closing: Closing) -> None:
    """1.23: of a cut answer; one that ended is read as it was trained on, whatever is said."""
    model, chat = tiny_score_model("gpt2", vocab_size=320), tiny_chat()
    cut, ids = (
        Answer((), "first\nsecond line cut", ended=False),
        chat.response_ids("first\nsecond line cut", ended=False),
    )
    given_to = ModelReward(model, tiny_tokenizer(), closing)
    model.closed = closing
    own = ModelReward(model, tiny_tokenizer())
    expected = {"line": [*chat.response_ids("first")], "end": [*ids[:-1], END], "as_is": ids}[closing]
    assert own.closed_response(ids, ended=False) == given_to.closed_response(ids, ended=False) == expected
    assert own.score([cut]).tolist() == given_to.score([cut]).tolist()
    assert own.closed_response([*ids, 0], ended=True) == [*ids, END]
