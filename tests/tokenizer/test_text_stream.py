"""Text in pieces: never half a character, and together exactly the text of all ids."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_tokenizer
from tests.tokenizer.imported import FAMILIES
from tests.tokenizer.test_tokenizer import opened
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer

each_tokenizer = pytest.mark.parametrize("family", [*FAMILIES, "trine"])


def tokenizer_of(family: str) -> Tokenizer:
    return tiny_tokenizer() if family == "trine" else opened(family)[0]


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.push([token_id]) for token_id in ids), stream.finish()]


@each_tokenizer
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_pieces_of_any_ids_are_together_the_text_of_all(family: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(family)
    parts = data.draw(st.lists(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=6), max_size=6))
    keep_special, skip = data.draw(st.booleans()), data.draw(st.sampled_from([None, "", " ", "<think>\n"]))
    stream = TextStream(tokenizer, keep_special=keep_special, skip=skip)
    text = "".join([*map(stream.push, parts), stream.finish()])
    assert text == tokenizer.decode([i for part in parts for i in part], keep_special=keep_special, skip=skip)


@each_tokenizer
@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet="日é👍🏽a ", max_size=12))
def test_pieces_of_whole_text_hold_whole_characters_only(family: str, text: str) -> None:
    tokenizer = tokenizer_of(family)
    parts = pieces(TextStream(tokenizer), tokenizer.encode(text))
    assert "\ufffd" not in "".join(parts)
    assert tokenizer.decode(tokenizer.encode(text)) == "".join(parts)


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One id per byte: the byte entries where there are such, else the single characters."""
    single = {tokenizer.token_bytes[i]: i for i in tokenizer.byte_ids or range(tokenizer.vocab_size)}
    return [single[bytes([byte])] for byte in data]


def test_bytes_that_can_no_longer_be_a_character_are_told_at_once() -> None:
    tokenizer = tiny_tokenizer()
    assert pieces(TextStream(tokenizer), byte_ids(tokenizer, "日".encode())) == ["", "", "日", ""]
    assert pieces(TextStream(tokenizer), byte_ids(tokenizer, b"\xe6a")) == ["", "\ufffda", ""]
    assert pieces(TextStream(tokenizer), byte_ids(tokenizer, b"\xe6\xe6\x97")) == ["", "\ufffd", "", "\ufffd"]


def test_with_byte_fallback_a_run_of_bytes_is_told_when_it_ends() -> None:
    tokenizer = tokenizer_of("llama2")
    word = tokenizer.encode("x")[-1]
    assert pieces(TextStream(tokenizer), [*byte_ids(tokenizer, "👍".encode()), word]) == ["", "", "", "", "👍x", ""]
    assert pieces(TextStream(tokenizer), byte_ids(tokenizer, b"a\xff")) == ["", "", "\ufffd\ufffd"]


def test_special_ids_vanish_even_inside_a_character() -> None:
    tokenizer = tiny_tokenizer()
    first, *rest = byte_ids(tokenizer, "日".encode())
    stream = TextStream(tokenizer)
    assert [stream.push([2, first, tokenizer.end_of_text]), stream.push(rest)] == ["", "日"]


def test_what_the_text_may_begin_with_is_held_until_it_is_known() -> None:
    tokenizer = tiny_tokenizer()
    assert pieces(TextStream(tokenizer, skip="ab"), byte_ids(tokenizer, b"abab")) == ["", "", "a", "b", ""]
    assert pieces(TextStream(tokenizer, skip="ab"), byte_ids(tokenizer, b"acab")) == ["", "ac", "a", "b", ""]
    assert pieces(TextStream(tokenizer, skip="ab"), byte_ids(tokenizer, b"a")) == ["", "a"]
