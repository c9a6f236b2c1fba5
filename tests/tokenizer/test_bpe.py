"""The byte-level BPE: two encoders with the same ids, reserved tokens, and text that survives."""

import json
from functools import cache
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import AutoTokenizer

from tests.tiny import TEXT, tiny_tokenizer
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of
from trine.tokenizer.bpe import SPECIAL_TOKENS, train_tokenizer
from trine.tokenizer.encoders import GPT2_SPLIT, TiktokenEncoder
from trine.tokenizer.tokenizer import Tokenizer

VARIED = [
    "",
    " ",
    "\n",
    "def add(first, second):\n\treturn first + second\n",
    "   three spaces, then     five\t\ttabs \r\n and  \n\n\n lines   ",
    "it's they'll we're I'd don't 'S 'LL ’s",
    "naïve café Ünïcode ẞ ǅ",
    "日本語の文章と中文混在。한국어도",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☺️ zero\u200bwidth",
    "١٢٣ ४५६ Ⅷ ½ ² 1_000_000",
    "\u00a0non\u2003breaking\u3000spaces\u2028line\u0085next\x1cfile\x1fseparators\x0b\x0c",
    "\x00\x01\x7f control",
    "e\u0301 combining \u0301alone",
    "שלום עולם مرحبا",
    "a" * 300 + " " * 300 + "\n" * 50,
    "𝕄𝕒𝕥𝕙 𐍈 \U0010ffff",
]
whitespace_heavy = st.text(alphabet=" \n\t\r\x0b\x0c\x85\xa0\u2003ab1'!,sSl日é", max_size=40)


@cache
def rich_tokenizer() -> Tokenizer:
    """Merges of whitespace runs, CJK and emoji, so that every split shows in the ids."""
    return train_tokenizer([*VARIED * 5, TEXT], 600)


def backend_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids by `tokenizers`, told to read the names of reserved tokens as ordinary text."""
    backend = backend_of(tokenizer)
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


@cache
def backend_of(tokenizer: Tokenizer) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.from_str(tokenizer.files.texts["tokenizer.json"])


@pytest.mark.parametrize("text", [*VARIED, TEXT, *SPECIAL_TOKENS, "say <|im_end|> and <|endoftext|>"])
def test_both_encoders_give_the_same_ids(text: str) -> None:
    for tokenizer in (tiny_tokenizer(260), tiny_tokenizer(), rich_tokenizer()):
        assert tokenizer.encode(text) == backend_ids(text, tokenizer)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60))
def test_both_encoders_give_the_same_ids_for_any_text(text: str) -> None:
    tokenizer = rich_tokenizer()
    assert tokenizer.encode(text) == backend_ids(text, tokenizer)


@settings(deadline=None, max_examples=300)
@given(whitespace_heavy)
def test_both_encoders_give_the_same_ids_for_runs_of_whitespace(text: str) -> None:
    tokenizer = rich_tokenizer()
    assert tokenizer.encode(text) == backend_ids(text, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["a", "1", "!", "\n"])
def test_both_encoders_split_at_the_same_places_for_every_character_of_unicode(before: str) -> None:
    """With a token for every `before + character`, the character is joined to it exactly where the split allows."""
    splitter = backend_of(tiny_tokenizer()).pre_tokenizer
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 4000):
        batch = characters[start : start + 4000]
        prefixes = (character.encode()[:size] for character in batch for size in range(2, len(character.encode()) + 1))
        ranks = {bytes([byte]): byte for byte in range(256)}
        for data in (*prefixes, *((before + character).encode() for character in batch)):
            ranks.setdefault(data, len(ranks))
        encoder = tiktoken.Encoding("all", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
        joined = [len(encoder.encode_ordinary(before + character)) == 1 for character in batch]
        assert joined == [len(splitter.pre_tokenize_str(before + character)) == 1 for character in batch]


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.text(max_size=60), whitespace_heavy))
def test_text_survives_encoding(text: str) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", [*VARIED, *SPECIAL_TOKENS, "say <|im_end|> and <|endoftext|>"])
def test_varied_text_survives_encoding(text: str) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_0_to_3_are_reserved_in_order() -> None:
    tokenizer = tiny_tokenizer()
    assert (tokenizer.end_of_text, tokenizer.pad, tokenizer.bos_id) == (0, 1, None)
    assert SPECIAL_TOKENS == ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.special == {name: token_id for token_id, name in enumerate(SPECIAL_TOKENS)}


def test_our_own_tokenizers_are_encoded_by_the_faster_program() -> None:
    assert isinstance(tiny_tokenizer()._encoder, TiktokenEncoder)


def test_the_fingerprint_is_of_the_pipeline_and_stays_what_it_was_in_finished_runs() -> None:
    assert tiny_tokenizer().fingerprint == sha256_of(backend_of(tiny_tokenizer()).to_str())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=5))))
def test_text_never_encodes_to_a_reserved_id(pieces: list[str]) -> None:
    assert not {0, 1, 2, 3} & set(tiny_tokenizer().encode("".join(pieces)))


def test_the_vocabulary_has_every_byte_and_the_size_asked_for() -> None:
    tokenizer = tiny_tokenizer(320)
    assert tokenizer.vocab_size == len(tokenizer.token_bytes) == 320
    assert {bytes([byte]) for byte in range(256)} <= set(tokenizer.token_bytes)
    assert len(set(tokenizer.token_bytes)) == 320


def test_merges_shorten_text_like_that_they_were_learned_from() -> None:
    assert len(rich_tokenizer().encode(TEXT)) < 0.5 * len(TEXT)


def test_a_batch_is_encoded_as_its_texts_are() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.encode_batch(VARIED) == [tokenizer.encode(text) for text in VARIED]


def test_decoding_drops_reserved_ids_unless_told_to_keep_them() -> None:
    tokenizer = tiny_tokenizer()
    ids = [2, *tokenizer.encode("hi"), 3, 0]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, keep_special=True) == "<|im_start|>hi<|im_end|><|endoftext|>"


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    tokenizer = tiny_tokenizer(260)
    assert tokenizer.decode(tokenizer.encode("日")[:2]) == "\ufffd"


def test_training_is_deterministic_in_the_texts() -> None:
    first, second = (train_tokenizer([TEXT], 300) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != train_tokenizer([TEXT[:400] * 2], 300).fingerprint


def test_a_saved_tokenizer_comes_back_the_same(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert [again.encode(text) for text in VARIED] == [tokenizer.encode(text) for text in VARIED]


def test_transformers_reads_the_folder_with_our_ids_and_reserved_tokens(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in VARIED:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (0, 1, None)
    assert theirs("plain")["input_ids"] == tokenizer.encode("plain")


def test_a_vocabulary_below_256_bytes_and_the_reserved_tokens_is_refused() -> None:
    assert tiny_tokenizer(260).vocab_size == 260
    with pytest.raises(TrineError, match="vocab_size=259 is too small"):
        train_tokenizer([TEXT], 259)


def test_too_little_text_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(TrineError, match="too small for vocab_size=5000: it yields only"):
        train_tokenizer([TEXT], 5000)


def test_tokenizers_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(TrineError, match="of type WordPiece; only BPE is supported"):
        Tokenizer.load(tmp_path)
