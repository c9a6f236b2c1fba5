"""Tokenizers of imported models: the ids and the text of `transformers`, and text that reaches no special token."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny import tiny_tokenizer
from tests.tokenizer.imported import FAMILIES, gpt2, llama2, llama3, qwen3, smollm2
from trine.runtime.errors import TrineError
from trine.tokenizer.encoders import TiktokenEncoder
from trine.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "",
    " ",
    "Hello world",
    " two  spaces before\n\nand\tafter it 2024 ",
    "def add(first, second):\n\treturn first + second\n",
    "it's they'LL DON'T 1234567 a1b2",
    "naïve e\u0301 日本語 👩‍👩‍👧‍👦 \u200b\u00a0",
    "▁Ġ <0x0A> <0xE6>",
]
# Pieces of special tokens' names, of the added ones and of byte entries, glued anyhow.
fragments = st.sampled_from(
    [
        "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<",
        ">", "<|", "|>", "s>", "</", "im_end", "<think>", "</think>", "▁", " ", "\n", "日", "é", "a", "<0x0A>",
    ]
)  # fmt: skip
any_text = st.one_of(st.text(max_size=30), st.lists(fragments, max_size=8).map("".join))
each_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def opened(family: str) -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    folder = FAMILIES[family](Path(mkdtemp()))
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


def spells_special(text: str, tokenizer: Tokenizer) -> bool:
    return any(name in text for name in tokenizer.special)


@each_family
@pytest.mark.parametrize("text", [*TEXTS, "<|endoftext|> </s>", "<|never|>", "x \ud800 y"])
def test_an_array_of_ids_is_the_list_of_ids(family: str, text: str) -> None:
    ours, _ = opened(family)
    assert ours.encode_array(text).tolist() == ours.encode(text)


@each_family
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_those_of_transformers(family: str, text: str) -> None:
    ours, theirs = opened(family)
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.prompt_ids(text) == theirs(text)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@each_family
@settings(deadline=None, max_examples=150)
@given(text=any_text)
def test_ids_are_those_of_transformers_wherever_no_special_token_is_named(family: str, text: str) -> None:
    ours, theirs = opened(family)
    if not spells_special(text, ours):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@each_family
@settings(deadline=None, max_examples=150)
@given(text=any_text)
def test_text_reaches_no_special_token_and_survives(family: str, text: str) -> None:
    tokenizer, _ = opened(family)
    for ids in (tokenizer.encode(text), *tokenizer.encode_batch([text, text])):
        assert not tokenizer.special_ids & set(ids)
    if family != "qwen3" and "▁" not in text:  # Qwen's pipeline composes characters, Llama-2's takes ▁ for a space
        assert tokenizer.decode(tokenizer.encode(text)) == text


@each_family
def test_naming_a_special_token_alone_is_text(family: str) -> None:
    tokenizer, _ = opened(family)
    for name, token_id in tokenizer.special.items():
        ids = tokenizer.encode(name)
        assert token_id not in ids
        assert tokenizer.decode(ids) == name
        assert tokenizer.decode([token_id]) == ""
        assert tokenizer.decode([token_id], keep_special=True) == name


def test_merges_that_spell_a_special_token_are_not_a_way_in() -> None:
    ours, theirs = opened("llama2")
    assert theirs.bos_token_id in theirs("a<s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not ours.special_ids & set(ours.encode("a<s>"))


@each_family
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_ids_decode_as_transformers_decodes_them(family: str, data: st.DataObject) -> None:
    ours, theirs = opened(family)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size + 3), max_size=12))
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.decode(ids, keep_special=True) == theirs.decode(ids, clean_up_tokenization_spaces=False)


@each_family
def test_a_batch_is_encoded_as_its_texts_are(family: str) -> None:
    tokenizer, _ = opened(family)
    for threads in (1, 2):
        assert tokenizer.encode_batch(TEXTS, threads) == [tokenizer.encode(text) for text in TEXTS]


@each_family
def test_a_saved_tokenizer_comes_back_the_same_and_opens_in_transformers(family: str, tmp_path: Path) -> None:
    tokenizer, theirs = opened(family)
    tokenizer.save(tmp_path)
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == dict(tokenizer.files.texts)
    if family == "gpt2":  # its end of text stands in the model's own config, which is not the tokenizer's to write
        (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": tokenizer.end_of_text}))
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.end_of_text, again.pad, again.bos_id) == (tokenizer.end_of_text, tokenizer.pad, tokenizer.bos_id)
    assert AutoTokenizer.from_pretrained(tmp_path)("plain")["input_ids"] == theirs("plain")["input_ids"]


def test_the_bytes_of_a_token_are_what_it_adds_to_a_text() -> None:
    for family in FAMILIES:
        tokenizer, _ = opened(family)
        ids = tokenizer.encode("a  日é\n")
        assert b"".join(tokenizer.token_bytes[i] for i in ids).decode().lstrip() == "a  日é\n"
        assert len(tokenizer.token_bytes) == tokenizer.vocab_size


def test_text_that_goes_on_keeps_the_space_that_a_text_of_llama_2_begins_with() -> None:
    tokenizer, _ = opened("llama2")
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode(ids) == "the cat"
    assert tokenizer.decode(ids, skip="") == " the cat"


def test_the_ids_with_a_role_are_found_wherever_they_are_declared() -> None:
    names = {
        family: (tokenizer.token_bytes[tokenizer.end_of_text], tokenizer.token_bytes[tokenizer.pad])
        for family, (tokenizer, _) in ((family, opened(family)) for family in FAMILIES)
    }
    assert names == {
        "gpt2": (b"<|endoftext|>", b"<|endoftext|>"),
        "smollm2": (b"<|im_end|>", b"<|im_end|>"),
        "llama3": (b"<|eot_id|>", b"<|eot_id|>"),
        "qwen3": (b"<|im_end|>", b"<|endoftext|>"),
        "llama2": (b"</s>", b"</s>"),
        "tinyllama": (b"</s>", b"</s>"),
    }
    assert {family for family in FAMILIES if opened(family)[0].bos_id is not None} == {"llama3", "llama2", "tinyllama"}
    llama, _ = opened("llama3")
    assert llama.stop_ids == (llama.special["<|eot_id|>"], llama.special["<|end_of_text|>"])


def test_special_tokens_inside_the_normalised_text_are_out_of_reach_too(tmp_path: Path) -> None:
    folder = llama2(tmp_path, normalized=True)
    assert not {0, 1, 2} & set(Tokenizer.load(folder).encode("a <s>b</s>"))


def test_added_tokens_that_are_not_special_are_ordinary_vocabulary() -> None:
    tokenizer, theirs = opened("qwen3")
    ids = tokenizer.encode("<think>\n")
    assert ids[0] == tokenizer.vocabulary["<think>"] == theirs.convert_tokens_to_ids("<think>")
    assert tokenizer.decode(ids) == "<think>\n"


def test_the_faster_program_encodes_exactly_the_tokenizers_that_it_can(tmp_path: Path) -> None:
    fast = {family for family in FAMILIES if isinstance(opened(family)[0]._encoder, TiktokenEncoder)}
    assert fast == {"gpt2"}
    assert isinstance(tiny_tokenizer()._encoder, TiktokenEncoder)
    described = json.loads((gpt2(tmp_path) / "tokenizer.json").read_text("utf-8"))
    for change in ({"normalizer": {"type": "NFC"}}, {"added_tokens": []}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(described | change), "utf-8")
        assert not isinstance(Tokenizer.load(tmp_path)._encoder, TiktokenEncoder)


def test_ids_out_of_the_order_of_the_merges_are_left_to_the_exact_program(tmp_path: Path) -> None:
    path = gpt2(tmp_path) / "tokenizer.json"
    described = json.loads(path.read_text("utf-8"))
    vocabulary = described["model"]["vocab"]
    first, second = ("".join(described["model"]["merges"][index]) for index in (0, 1))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(described), "utf-8")
    tokenizer, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert not isinstance(tokenizer._encoder, TiktokenEncoder)
    assert [tokenizer.encode(text) for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


def test_padding_and_truncation_in_the_file_change_no_ids(tmp_path: Path) -> None:
    path = smollm2(tmp_path) / "tokenizer.json"
    long = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"truncation": long}), "utf-8")
    assert Tokenizer.load(tmp_path).encode("one two three four") == opened("smollm2")[0].encode("one two three four")


def test_lone_surrogates_are_replaced() -> None:
    for family in FAMILIES:
        tokenizer, _ = opened(family)
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_a_model_that_says_nowhere_how_a_text_ends_is_refused(tmp_path: Path) -> None:
    (gpt2(tmp_path) / "generation_config.json").unlink()
    with pytest.raises(TrineError, match="names the end-of-text token; set eos_token"):
        Tokenizer.load(tmp_path)


def test_decoders_that_are_not_known_are_refused_by_name(tmp_path: Path) -> None:
    path = llama3(tmp_path) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"decoder": {"type": "WordPiece"}}), "utf-8")
    with pytest.raises(TrineError, match="decoder WordPiece; Trine reads byte-level ones"):
        Tokenizer.load(tmp_path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(tmp_path)
    (qwen3(tmp_path) / "tokenizer_config.json").write_text("{")
    with pytest.raises(TrineError, match=r"tokenizer_config\.json is not readable JSON"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff")
    with pytest.raises(TrineError, match=r"tokenizer_config\.json is not readable text"):
        Tokenizer.load(tmp_path)
