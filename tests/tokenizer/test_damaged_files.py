"""Damaged copies of a tokenizer's files: the right result, or an error that names the file; never another exception."""

import codecs
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.mutations import LFS_POINTER, mutations
from tests.tokenizer.imported import TEMPLATES, gpt2, llama2, qwen3, smollm2
from tests.tokenizer.test_special_tokens import change
from trine.model.generation_config import read_generation_defaults
from trine.records import Message
from trine.runtime.errors import TrineError
from trine.tokenizer.template_format import TemplateFormat
from trine.tokenizer.tokenizer import Tokenizer

TEXT = "def add(first, second):\n\treturn 12 + second  # naïve 日本 👍🏽\n"


def older(folder: Path, kind: Callable[[Path], Path] = gpt2) -> Path:
    """The same tokenizer as vocab.json and merges.txt, as older programs wrote it."""
    kind(folder)
    described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").unlink()
    added = {token["content"]: token["id"] for token in described["added_tokens"]}
    vocabulary, merges = described["model"]["vocab"], described["model"]["merges"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added))
    name = "Qwen2Tokenizer" if kind is qwen3 else "GPT2Tokenizer"
    end = "<|im_end|>" if kind is qwen3 else "<|endoftext|>"
    change(folder, "tokenizer_config.json", tokenizer_class=name, eos_token=end)
    return folder


def everything_of(folder: Path) -> None:
    """Use all that is read of a folder: vocabulary, text, special tokens, chat, sampling defaults."""
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.prompt_ids(TEXT)
    assert tokenizer.decode(ids), tokenizer.stop_ids
    if tokenizer.chat_template is not None:
        TemplateFormat(tokenizer).prompt_ids([Message("user", TEXT)])
    read_generation_defaults(folder)


FILES = {
    "tokenizer.json": (smollm2, 100),
    "tokenizer_config.json": (smollm2, 100),
    "special_tokens_map.json": (llama2, 60),
    "chat_template.jinja": (qwen3, 60),
    "generation_config.json": (gpt2, 60),
    "vocab.json": (older, 60),
    "merges.txt": (older, 60),
    "added_tokens.json": (older, 60),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_read_rightly(name: str, tmp_path: Path) -> None:
    """1.12, 3.5, 4.5: never another exception than a `TrineError` that names a file of the folder."""
    make, count = FILES[name]
    folder = make(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    whole, expected = (folder / name).read_bytes(), Tokenizer.load(folder)
    refused = 0
    for kind, damaged in mutations(whole, seed=1, count=count):
        (folder / name).write_bytes(damaged)
        try:
            everything_of(folder)
        except TrineError as error:
            refused += 1
            assert any(place in str(error) for place in (name, str(folder), "tokenizer.json")), (kind, error)
            continue
        if kind.startswith(("bom", "crlf")):
            assert Tokenizer.load(folder).encode(TEXT) == expected.encode(TEXT), kind
    assert count * 0.3 < refused < count


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_byte_order_mark_is_no_text(name: str, tmp_path: Path) -> None:
    """4.5: editors write one; the files we save have none."""
    expected = Tokenizer.load(qwen3(tmp_path))
    path = tmp_path / name
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    loaded = Tokenizer.load(tmp_path)
    assert loaded.files.texts == expected.files.texts
    assert loaded.chat_template == TEMPLATES["qwen3"]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_git_lfs_pointer_is_said_to_be_one(name: str, tmp_path: Path) -> None:
    """4.5: also where the pointer would be readable text."""
    (qwen3(tmp_path) / name).write_bytes(LFS_POINTER)
    with pytest.raises(TrineError, match=rf"{name} is a git-lfs pointer"):
        Tokenizer.load(tmp_path).chat_template  # noqa: B018


@pytest.mark.parametrize("key", ["decoder", "normalizer", "pre_tokenizer", "post_processor"])
@pytest.mark.parametrize("value", [5, "x", [], True, {"type": "No"}, {}, {"type": "Sequence"}, "deep"])
def test_a_step_of_another_form_is_refused(key: str, value: object, tmp_path: Path) -> None:
    """3.5: none of them as an exception of Python's or of `tokenizers`'."""
    if value == "deep":
        inner = {"pre_tokenizer": "pretokenizers", "post_processor": "processors"}.get(key, f"{key}s")
        for _ in range(300):
            value = {"type": "Sequence", inner: [] if value == "deep" else [value]}
    change(smollm2(tmp_path), "tokenizer.json", **{key: value})
    (tmp_path / "config.json").write_text("{}")
    try:
        everything_of(tmp_path)
    except TrineError as error:
        assert "tokenizer.json" in str(error)
    else:
        assert key == "post_processor", "only what it adds is read of it"
        assert isinstance(value, dict)


VALUES: tuple[Any, ...] = (
    None, 5, -1, 1.5, True, "x", "", [], {}, [1], ["a"], {"a": 1}, "\ud800", 2**70, [[]], {"content": 5},
    {"content": "<x>"}, [{"content": "<y>"}], float("nan"),
)  # fmt: skip
KEYS = (
    "bos_token", "eos_token", "pad_token", "added_tokens_decoder", "additional_special_tokens", "chat_template",
    "extra_special_tokens", "eos_token_id", "tokenizer_class", "add_prefix_space", "stop_strings", "model", "merges",
)  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value stands in a JSON object: the first few of each list, some keys of each object."""
    if place:
        yield place
    inner = (
        list(value.items())[:12] if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, each in inner:
        yield from places(each, (*place, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `place`."""
    if not place:
        return new
    items = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {key: put(each, place[1:], new) if key == place[0] else each for key, each in items}
    if isinstance(value, dict) and place[0] not in value:
        changed[place[0]] = new
    return changed if isinstance(value, dict) else list(changed.values())


@pytest.mark.parametrize("make", [smollm2, llama2, qwen3, older], ids=lambda make: make.__name__)
def test_a_value_of_another_type_is_refused_or_harmless(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """1.12, 3.5: any value, anywhere; among them one that ends `tokenizers` with the whole process."""
    folder, generator = make(tmp_path), random.Random(0)
    (folder / "config.json").write_text("{}")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if not (folder / name).exists():
            continue
        whole = json.loads((folder / name).read_text("utf-8"))
        cases = [(place, generator.choice(VALUES)) for place in places(whole)]
        cases += [((key,), generator.choice(VALUES)) for key in KEYS]
        for place, value in generator.sample(cases, min(30, len(cases))):
            (folder / name).write_text(json.dumps(put(whole, place, value)))
            try:
                everything_of(folder)
            except TrineError as error:
                assert str(folder) in str(error), (place, value)
        (folder / name).write_text(json.dumps(whole))


def test_a_prefix_of_pieces_inside_words_is_refused(tmp_path: Path) -> None:
    """3.5: `tokenizers` aborts the process where the merges do not fit it, and no exception tells."""
    path = smollm2(tmp_path) / "tokenizer.json"
    path.write_text(json.dumps(put(json.loads(path.read_text("utf-8")), ("model", "continuing_subword_prefix"), "x")))
    with pytest.raises(TrineError, match=r"tokenizer\.json: model\.continuing_subword_prefix"):
        Tokenizer.load(tmp_path)


# vocab.json and merges.txt


@pytest.mark.parametrize("kind", [gpt2, qwen3], ids=lambda kind: kind.__name__)
def test_vocab_json_and_merges_txt_are_a_tokenizer(kind: Callable[[Path], Path], tmp_path: Path) -> None:
    """4.5: with the ids of transformers and of the tokenizer.json that the two came from."""
    ours, whole = Tokenizer.load(older(tmp_path / "old", kind)), Tokenizer.load(kind(tmp_path / "new"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "old")
    for text in (TEXT, "it's they'LL 1234567", "  e\u0301 \n\n x", ""):
        assert ours.encode(text) == whole.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == whole.decode(whole.encode(text))
    assert ours.special == whole.special
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode(TEXT) == ours.encode(TEXT)


def test_the_kind_may_stand_in_the_models_config(tmp_path: Path) -> None:
    """4.5: as in the oldest folders, which have no tokenizer_config.json."""
    folder = older(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert Tokenizer.load(folder).special == {"<|endoftext|>": 420}


def test_a_kind_whose_split_is_not_known_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """4.5: reading it by another split would give other ids without a word."""
    change(older(tmp_path), "tokenizer_config.json", tokenizer_class="CLIPTokenizer")
    with pytest.raises(TrineError, match=r"vocab\.json: how text is split .*'clip'.*save_pretrained"):
        Tokenizer.load(tmp_path)


def test_what_is_there_instead_of_a_tokenizer_is_named(tmp_path: Path) -> None:
    """4.5: not only that tokenizer.json is missing."""
    with pytest.raises(TrineError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(TrineError, match=r"vocab\.json is half a tokenizer: merges\.txt is missing beside it"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    with pytest.raises(TrineError, match=r"tokenizer\.model is SentencePiece's own format.*save_pretrained"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("line", [1, 2, 40, -1])
def test_a_line_that_merges_txt_lost_is_noticed(line: int, tmp_path: Path) -> None:
    """4.5: without one merge, text would be encoded a little differently, and nobody would know why."""
    folder = older(tmp_path)
    lines = (folder / "merges.txt").read_text("utf-8").splitlines()
    del lines[line]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(TrineError, match=r"merges\.txt makes no '"):
        Tokenizer.load(folder)
