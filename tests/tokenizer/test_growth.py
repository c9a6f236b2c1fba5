"""New special tokens: the next ids, never spelled by text, the same in `transformers`."""

from pathlib import Path

import pytest

from tests.tiny import tiny_tokenizer
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import ChatFormat, chat_format
from trine.tokenizer.growth import with_special_tokens, with_template
from trine.tokenizer.tokenizer import Tokenizer

NAMES = ("[翻译为中文]", "[问题]", "[答案]")


def test_new_tokens_have_the_next_ids_and_old_ids_stay() -> None:
    old, grown = tiny_tokenizer(), with_special_tokens(tiny_tokenizer(), NAMES)
    assert [grown.special[name] for name in NAMES] == [320, 321, 322]
    assert (old.vocab_size, grown.vocab_size) == (320, 323)
    text = "def add(x): the cat 今天"
    assert grown.encode(text) == old.encode(text)
    assert {name: grown.special[name] for name in old.special} == old.special


@pytest.mark.parametrize("text", ["[问题]", "a [问题] b", "[翻译为中文][答案]", "[问题"])
def test_the_same_characters_typed_stay_text(text: str) -> None:
    grown = with_special_tokens(tiny_tokenizer(), NAMES)
    ids = grown.encode(text)
    assert not grown.special_ids & set(ids)
    assert grown.decode(ids) == text
    assert ids == tiny_tokenizer().encode(text)


def test_transformers_gives_the_same_ids_and_leaves_them_out_of_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    grown = with_special_tokens(tiny_tokenizer(), NAMES)
    grown.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids(list(NAMES)) == [320, 321, 322]
    assert theirs.decode([*grown.encode("ab"), 321], skip_special_tokens=True) == "ab"
    assert Tokenizer.load(tmp_path).special == grown.special
    assert theirs("the cat").input_ids == grown.encode("the cat")


def test_growing_twice_adds_what_is_missing_only() -> None:
    once = with_special_tokens(tiny_tokenizer(), NAMES[:2])
    assert with_special_tokens(once, NAMES[:2]) is once
    twice = with_special_tokens(once, NAMES)
    assert [twice.special[name] for name in NAMES] == [320, 321, 322]


def test_the_chat_format_of_our_own_models_stays() -> None:
    assert isinstance(chat_format(with_special_tokens(tiny_tokenizer(), NAMES)), ChatFormat)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", "two or more"),
        ("", "two or more"),
        (" [a]", "no blank"),
        ("[a\n]", "printable"),
        ("the", "ordinary entry"),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, message: str) -> None:
    tokenizer = tiny_tokenizer()
    if name == "the":
        name = next(entry for entry in tokenizer.vocabulary if len(entry) > 2 and entry.isalpha())
    with pytest.raises(TrineError, match=message):
        with_special_tokens(tokenizer, [name])


def test_a_name_declared_twice_is_refused() -> None:
    with pytest.raises(TrineError, match="declared twice"):
        with_special_tokens(tiny_tokenizer(), ["[a]", "[a]"])


def test_a_template_writes_tokens_around_texts_in_transformers_only(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    grown = with_special_tokens(tiny_tokenizer(), ["<s>", "<d>", "<e>"])
    made = with_template(grown, ("<s>", "$A", "<e>"), ("<s>", "$A", "<d>", "$B", "<e>"))
    made.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    start, delimiter, extract = (made.special[name] for name in ("<s>", "<d>", "<e>"))
    cat, mat = made.encode("cat"), made.encode("mat")
    assert theirs("cat").input_ids == [start, *cat, extract]
    assert theirs("cat", "mat").input_ids == [start, *cat, delimiter, *mat, extract]
    assert made.encode("cat") == grown.encode("cat")
