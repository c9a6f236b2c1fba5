"""Other makers' tokenizers in GGUF: named splits and SentencePiece scores, read and written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import AutoTokenizer

from tests.model.test_gguf import shape
from tests.tiny import tiny_model
from tests.tokenizer.imported import FAMILIES, llama2, llama3, qwen3, smollm2
from trine.model.gguf.container import Container, read_container
from trine.model.gguf.reading import read_gguf
from trine.model.gguf.splits import SPLITS, split_name
from trine.model.gguf.vocabulary import read_tokenizer
from trine.model.gguf.writing import write_gguf
from trine.runtime.errors import TrineError
from trine.tokenizer.files import CONFIG, PIPELINE, TokenizerFiles
from trine.tokenizer.tokenizer import Tokenizer

TEXTS = (
    "Hello world", "  leading", "it's 1234 and 12.5, we'LL DON'T", "a  1", "tabs\t\tx\n\n\n  y \r\n z", "ends  ",
    "naïve café 日本語 🎉 \u00a0 x", "  1 2  3", "...!!! $$ <=> ^~|`", "½ ² Ⅷ 12345678", "<|im_end|><s></s><think>", "",
)  # fmt: skip
BYTE_LEVEL = [name for name in FAMILIES if name not in ("llama2", "tinyllama")]


def through_gguf(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    model = tiny_model(replace(shape("llama"), vocab_size=tokenizer.vocab_size))
    write_gguf(model, tokenizer, path, "float16", "tiny")
    return Tokenizer(read_gguf(path).tokenizer)


# Byte-level vocabularies


@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_other_makers_tokenizers_come_back_with_the_same_ids(family: str, tmp_path: Path) -> None:
    before = Tokenizer.load(FAMILIES[family](tmp_path / family))
    after = through_gguf(before, tmp_path / "model.gguf")
    for text in TEXTS:
        assert after.encode(text) == before.encode(text)
        assert after.decode(before.encode(text)) == before.decode(before.encode(text))
    assert (after.special, after.vocabulary) == (before.special, before.vocabulary)
    assert (after.bos_id, after.end_of_text, after.pad) == (before.bos_id, before.end_of_text, before.pad)
    assert (set(after.stop_ids), after.chat_template) == (set(before.stop_ids), before.chat_template)


@pytest.mark.parametrize(("family", "name"), [(smollm2, "smollm"), (llama3, "llama-bpe"), (qwen3, "qwen2")])
def test_the_split_is_written_by_the_name_llama_cpp_knows_it_by(
    family: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    through_gguf(Tokenizer.load(family(tmp_path / "folder")), tmp_path / "model.gguf")
    assert read_container(tmp_path / "model.gguf").metadata["tokenizer.ggml.pre"] == name


def test_every_split_has_a_name_that_means_it() -> None:
    for name, split in SPLITS.items():
        described = {"pre_tokenizer": split.pre_tokenizer, "normalizer": split.normalizer}
        found = split_name({**described, "model": {"ignore_merges": split.ignore_merges}})
        assert found is not None
        assert SPLITS[found] == split, name


NAMED = (
    "smaug-bpe", "phi-2", "refact", "command-r", "mistral-bpe", "tekken", "gpt-4o", "falcon", "glm4", "deepseek-v3",
    "deepseek-coder", "seed-coder", "bailingmoe", "stablelm2", "olmo", "dbrx", "mpt", "viking", "bloom", "exaone",
    "default",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_what_other_programs_write_as_the_split_is_read(name: str, tmp_path: Path) -> None:
    """4.1: no text is lost or changed by it, and it goes out as a name that means the same."""
    before = Tokenizer.load(llama3(tmp_path / "folder"))
    through_gguf(before, tmp_path / "model.gguf")
    container = read_container(tmp_path / "model.gguf")
    container = replace(container, metadata=container.metadata | {"tokenizer.ggml.pre": name})
    tokenizer = Tokenizer(read_tokenizer(container, before.vocab_size, context=128)[0])
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    again = through_gguf(tokenizer, tmp_path / "again.gguf")
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("smaug-bpe", ["It", "'S", " ", "123", "4", "!!\n"]),
        ("deepseek-v3", ["It", "'S", " ", "123", "4", "!!\n"]),
        ("phi-2", ["It", "'", "S", " 1234", "!!", "\n"]),
        ("refact", ["It", "'", "S", " ", *"1234", "!!", "\n"]),
        ("command-r", ["It", "'", "S", " ", *"1234", "!!", "\n"]),
        ("tekken", ["It", "'S", " ", *"1234", "!!\n"]),
        ("bailingmoe", ["It", "'S", " ", *"1234", "!!\n"]),
    ],
)
def test_a_split_cuts_where_llama_cpp_does(name: str, pieces: list[str]) -> None:
    """4.1: contractions, digits and line ends, where the expressions differ."""
    description = json.dumps(
        {"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": SPLITS[name].pre_tokenizer}
    )
    splitter = HuggingFaceTokenizer.from_str(description).pre_tokenizer
    found = "|".join(piece for piece, _ in splitter.pre_tokenize_str("It'S 1234!!\n"))
    assert found.replace("Ġ", " ").replace("Ċ", "\n").split("|") == pieces


def test_control_tokens_are_special_and_user_defined_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tokenizer = Tokenizer.load(qwen3(tmp_path / "qwen3"))
    after = through_gguf(tokenizer, path)
    metadata = read_container(path).metadata
    kinds = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<|im_end|>"], kinds["<think>"], kinds["a"]) == (
        TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.NORMAL,
    )  # fmt: skip
    assert after.encode("<think>") == [tokenizer.vocabulary["<think>"]]
    assert tokenizer.vocabulary["<|im_end|>"] not in after.encode("<|im_end|>")


def test_a_pre_tokeniser_without_a_name_is_refused(tmp_path: Path) -> None:
    folder = smollm2(tmp_path / "folder")
    described = json.loads((folder / PIPELINE).read_text())
    described["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / PIPELINE).write_text(json.dumps(described))
    with pytest.raises(TrineError, match="GGUF has no name for this pre-tokeniser; export to hf instead"):
        through_gguf(Tokenizer.load(folder), tmp_path / "model.gguf")


# SentencePiece

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", *"adehilnorstuwHŕ.,!12<>", "he", "in", "▁w", "or", "th", "▁t", "ll", "▁the", "lo", "an", "▁an", "▁world",
          "rld", "hello", "hell", "▁hello", "wo", "ld", "▁▁", "s>", "12"]  # fmt: skip


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A file with a small SentencePiece vocabulary and nothing else: a better score for an earlier piece."""
    tokens = [*SPECIAL, *BYTES, *PIECES]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * len(BYTES) + [TokenType.NORMAL] * len(PIECES)
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_scores([0.0] * (len(tokens) - len(PIECES)) + [-float(rank) for rank in range(len(PIECES))])
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary_of(path: Path) -> Tokenizer:
    container = read_container(path)
    return Tokenizer(read_tokenizer(container, len(container.metadata["tokenizer.ggml.tokens"]), context=128)[0])


def test_sentencepiece_joins_the_neighbours_of_the_best_score(scored: Path) -> None:
    tokenizer = vocabulary_of(scored)
    names = {token_id: name for name, token_id in tokenizer.vocabulary.items()}
    assert [names[token_id] for token_id in tokenizer.encode("the hello")] == ["▁the", "▁hello"]
    assert [names[token_id] for token_id in tokenizer.encode("  é")] == ["▁▁", "▁", "<0xC3>", "<0xA9>"]
    assert [names[token_id] for token_id in tokenizer.encode("<s>")] == ["▁", "<", "s>"]
    assert (tokenizer.bos_id, tokenizer.end_of_text) == (1, 2)


def test_sentencepiece_is_read_as_transformers_reads_it(scored: Path) -> None:
    """But for a space before the text, where `transformers` 5 puts no second one and SentencePiece does."""
    tokenizer, stock = vocabulary_of(scored), AutoTokenizer.from_pretrained(scored.parent, gguf_file=scored.name)
    for text in ("the world", "hello, hello!", "an 12 and 112", "naïve 日本", "in  the\nworld  ", "thell or"):
        assert tokenizer.encode(text) == stock(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sentencepiece_comes_back_from_the_file_it_is_written_to(scored: Path, tmp_path: Path) -> None:
    before = vocabulary_of(scored)
    after = through_gguf(before, tmp_path / "again.gguf")
    for text in (*TEXTS, "the world", "hello, hello!", "thell or"):
        assert after.encode(text) == before.encode(text)
        assert after.decode(before.encode(text)) == before.decode(before.encode(text))
    assert (after.bos_id, after.end_of_text, after.special) == (before.bos_id, before.end_of_text, before.special)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_what_transformers_5_saves_of_sentencepiece_goes_to_gguf(kind: str, scored: Path, tmp_path: Path) -> None:
    """4.4: a `Metaspace` step instead of a normalizer; no second space before a text that begins with one."""
    before, saved = vocabulary_of(scored), tmp_path / "saved"
    before.save(tmp_path / "before")
    config = json.loads((tmp_path / "before" / CONFIG).read_text()) | {"tokenizer_class": kind}
    (tmp_path / "before" / CONFIG).write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(tmp_path / "before").save_pretrained(saved)
    tokenizer = Tokenizer.load(saved)
    after = through_gguf(tokenizer, tmp_path / "again.gguf")
    for text in ("the world", "hello, hello!", "an 12 and 112", "naïve 日本", "in  the\nworld  ", "thell or", ""):
        assert after.encode(text) == tokenizer.encode(text) == before.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (after.bos_id, after.end_of_text) == (before.bos_id, before.end_of_text)


SPACES = ({"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
          {"type": "Replace", "pattern": {"Regex": "▁"}, "content": " "})  # fmt: skip
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
FUSE, FALLBACK = {"type": "Fuse"}, {"type": "ByteFallback"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}


@pytest.mark.parametrize(
    ("steps", "leading"),
    [([SPACES[1], FALLBACK, FUSE, STRIP], " "), ([SPACES[1], FALLBACK, FUSE], ""), ([FALLBACK, SPACES[0], FUSE], ""),
     ([METASPACE], " "), ([FALLBACK, METASPACE], " "), ([FALLBACK, METASPACE | {"prepend_scheme": "never"}], ""),
     ([{"type": "Sequence", "decoders": [SPACES[0], FALLBACK]}, FUSE, STRIP], " "), ([SPACES[0], FUSE, STRIP], " ")],
)  # fmt: skip
def test_decoders_that_say_the_same_in_other_words(
    steps: list[dict[str, object]], leading: str, scored: Path, tmp_path: Path
) -> None:
    """4.4: `Metaspace` and regular expressions; the text of transformers."""
    vocabulary_of(scored).save(tmp_path)
    described = json.loads((tmp_path / PIPELINE).read_text())
    described["decoder"] = {"type": "Sequence", "decoders": steps} if len(steps) > 1 else steps[0]
    (tmp_path / PIPELINE).write_text(json.dumps(described))
    tokenizer, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.spelling.leading == leading
    for text in ("the world", "hello, hello!", "in  the world"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    "steps",
    [[STRIP, SPACES[0], FALLBACK, FUSE], [SPACES[0], SPACES[0]], [SPACES[0] | {"pattern": {"Regex": "▁+"}}],
     [FUSE, STRIP], [SPACES[0], STRIP], [SPACES[0], FUSE, STRIP | {"start": 2}], [{"type": "CTC"}, SPACES[0]]],
)  # fmt: skip
def test_decoders_that_say_something_else_are_refused(
    steps: list[dict[str, object]], scored: Path, tmp_path: Path
) -> None:
    """4.4: by their names, not read as what they are not."""
    vocabulary_of(scored).save(tmp_path)
    described = json.loads((tmp_path / PIPELINE).read_text()) | {"decoder": {"type": "Sequence", "decoders": steps}}
    (tmp_path / PIPELINE).write_text(json.dumps(described))
    with pytest.raises(TrineError, match=r"tokenizer\.json is a BPE tokenizer with decoder .*; Trine reads"):
        Tokenizer.load(tmp_path)


def test_a_sentencepiece_that_splits_words_first_is_refused(scored: Path, tmp_path: Path) -> None:
    """4.4: GGUF has no word for it."""
    vocabulary_of(scored).save(tmp_path)
    described = json.loads((tmp_path / PIPELINE).read_text())
    described |= {"normalizer": None, "pre_tokenizer": METASPACE | {"split": True}}
    (tmp_path / PIPELINE).write_text(json.dumps(described))
    with pytest.raises(TrineError, match="GGUF cannot represent the merges of this tokenizer"):
        through_gguf(Tokenizer.load(tmp_path), tmp_path / "again.gguf")


def test_merges_that_no_scores_give_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match="GGUF cannot represent the merges of this tokenizer; export to hf instead"):
        through_gguf(Tokenizer.load(llama2(tmp_path / "llama2")), tmp_path / "model.gguf")


def test_a_file_that_says_so_puts_no_space_before_a_text(scored: Path) -> None:
    files = read_tokenizer(edited(scored, add_space_prefix=False), len(SPECIAL + BYTES + PIECES), 128)[0]
    tokenizer = Tokenizer(files)
    assert tokenizer.decode(tokenizer.encode("the world")) == "the world"
    assert tokenizer.vocabulary["▁the"] not in tokenizer.encode("the world")


def test_texts_begin_with_bos_where_the_file_says_so_or_says_nothing(scored: Path) -> None:
    for changes, expected in (({}, 1), ({"add_bos_token": True}, 1), ({"add_bos_token": False}, None)):
        files: TokenizerFiles = read_tokenizer(edited(scored, **changes), len(SPECIAL + BYTES + PIECES), 128)[0]
        assert Tokenizer(files).bos_id == expected
        assert json.loads(files.texts[CONFIG])["add_bos_token"] == (expected is not None)


def edited(path: Path, **flags: bool) -> Container:
    container = read_container(path)
    return replace(container, metadata=container.metadata | {f"tokenizer.ggml.{key}": flags[key] for key in flags})
