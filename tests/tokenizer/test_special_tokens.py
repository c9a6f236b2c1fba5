"""Which tokens are special: those that any file marks so, with the ids of `transformers`; words stay words."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.tokenizer.imported import TEMPLATES, added, llama2, llama3, qwen3, smollm2, without_id
from trine.records import Message
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.encoders import TiktokenEncoder
from trine.tokenizer.tokenizer import Tokenizer

CHATML = ("<|im_start|>", "<|im_end|>")


def change(folder: Path, name: str, **values: Any) -> None:
    """Set keys of a JSON file; None removes them."""
    path = folder / name
    described = (json.loads(path.read_text("utf-8")) if path.exists() else {}) | values
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}), "utf-8")


def without_chatml(folder: Path) -> tuple[Path, dict[str, int]]:
    """SmolLM2's folder with no word of the chat tokens in it but the template, and the ids they would have had."""
    smollm2(folder, TEMPLATES["chatml"])
    described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = described["model"]["vocab"]
    for name in CHATML:
        del vocabulary[name]
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    described["model"]["vocab"] = {name: index for index, name in enumerate(names)}
    described["added_tokens"] = described["added_tokens"][:1]
    (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    end = "<|endoftext|>"
    change(folder, "tokenizer_config.json", bos_token=None, eos_token=end, pad_token=end, unk_token=end)
    return folder, {name: len(names) + index for index, name in enumerate(CHATML)}


def declared(folder: Path, where: str, ids: dict[str, int]) -> None:
    tokens = {name: added(token_id, name) for name, token_id in ids.items()}
    if where == "decoder":
        decoder = {str(ids[name]): without_id(token) for name, token in tokens.items()}
        change(folder, "tokenizer_config.json", added_tokens_decoder=decoder)
    elif where == "added_tokens.json":
        change(folder, "added_tokens.json", **ids)
        change(folder, "special_tokens_map.json", additional_special_tokens=list(CHATML))
    elif where == "special_tokens_map.json":
        change(folder, "special_tokens_map.json", extra_special_tokens=list(CHATML))
    elif where == "objects":
        objects = [
            {key: value for key, value in token.items() if key not in ("id", "special")} for token in tokens.values()
        ]
        change(folder, "special_tokens_map.json", extra_special_tokens=objects)
    else:
        change(folder, "tokenizer_config.json", **{where: list(CHATML)})


WHERE = (
    "decoder", "added_tokens.json", "special_tokens_map.json", "objects", "additional_special_tokens",
    "extra_special_tokens",
)  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
def test_special_tokens_count_wherever_they_stand(where: str, tmp_path: Path) -> None:
    """1.12: with the ids of transformers, in chat as one token each, and out of reach of text."""
    folder, ids = without_chatml(tmp_path)
    declared(folder, where, ids)
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert {name: theirs.convert_tokens_to_ids(name) for name in CHATML} == ids
    assert {name: ours.special[name] for name in CHATML} == ids
    turns = [{"role": "user", "content": "What is 2 + 2?"}]
    expected = theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert chat_format(ours).prompt_ids([Message("user", "What is 2 + 2?")]) == expected
    assert not set(ids.values()) & set(ours.encode("<|im_start|>user<|im_end|>"))
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").special == ours.special
    assert ours.decode([*ids.values()], keep_special=True) == "".join(CHATML)


def test_ids_with_a_gap_are_kept(tmp_path: Path) -> None:
    """1.12: rows between the vocabulary and an added token belong to nobody."""
    folder, ids = without_chatml(tmp_path)
    apart = {name: token_id + 7 for name, token_id in ids.items()}
    declared(folder, "decoder", apart)
    tokenizer = Tokenizer.load(folder)
    assert {name: tokenizer.special[name] for name in CHATML} == apart
    prompt = chat_format(tokenizer).prompt_ids([Message("user", "hello")])
    assert [token_id for token_id in prompt if token_id in apart.values()] == [
        apart["<|im_start|>"], apart["<|im_end|>"], apart["<|im_start|>"],
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["decoder", "added_tokens.json"])
@pytest.mark.parametrize("wrong", [0, 5, -1, 2**40, "7", None, 1.5])
def test_ids_that_contradict_the_vocabulary_are_refused(where: str, wrong: Any, tmp_path: Path) -> None:
    """1.12: an id of another entry, or none at all, is an error that names the file."""
    folder, ids = without_chatml(tmp_path)
    declared(folder, where, ids | {"<|im_end|>": wrong})
    if where == "added_tokens.json" and wrong is None:
        (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": None}))
    if where == "decoder" and wrong == "7":
        wrong = 7  # a decoder's keys are texts in any case
    with pytest.raises(TrineError, match=rf"({'tokenizer_config' if where == 'decoder' else 'added_tokens'}\.json)"):
        Tokenizer.load(folder)


def test_an_id_other_than_that_of_tokenizer_json_is_refused(tmp_path: Path) -> None:
    """1.12: ids are checked against tokenizer.json."""
    folder = qwen3(tmp_path)
    change(folder, "added_tokens.json", **{"<|im_end|>": 3})
    with pytest.raises(TrineError, match=r"added_tokens\.json gives '<\|im_end\|>' id 3, tokenizer\.json id \d+"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("value", [5, "x", {"5": "x"}, {"a": {"content": "x"}}, {"5": {"special": True}}, [1]])
def test_added_tokens_of_another_form_are_refused(value: Any, tmp_path: Path) -> None:
    """1.12: what cannot be read is said, not passed over."""
    change(qwen3(tmp_path), "tokenizer_config.json", added_tokens_decoder=value)
    with pytest.raises(TrineError, match=r"tokenizer_config\.json: added_tokens_decoder must hold tokens by id"):
        Tokenizer.load(tmp_path)
    change(qwen3(tmp_path), "tokenizer_config.json", added_tokens_decoder=None, additional_special_tokens=5)
    with pytest.raises(TrineError, match=r"tokenizer_config\.json: additional_special_tokens must be a list"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("role", ["pad_token", "unk_token", "mask_token", "bos_token", "eos_token"])
@pytest.mark.parametrize("word", ["!", "he", "o"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_word_with_a_role_stays_in_the_text(role: str, word: str, marked: bool, tmp_path: Path) -> None:
    """1.11: `"pad_token": "!"` takes no "!" out of any text, and the ids are those of transformers."""
    folder = llama3(tmp_path)
    change(folder, "tokenizer_config.json", **{role: word})
    described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    if marked and len(word) == 1:  # as transformers saves such a folder
        described["added_tokens"].append(added(described["model"]["vocab"][word], word))
        (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    text = "hello! x!! the other oo he"
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ours.encode(text)) == text
    assert word not in ours.special
    if role == "pad_token":
        assert ours.pad == ours.vocabulary[word]


def test_a_named_token_that_no_text_spells_is_special(tmp_path: Path) -> None:
    """1.11: older folders name `<|endoftext|>` without marking it; text must not reach it."""
    folder = smollm2(tmp_path)
    change(folder, "tokenizer.json", added_tokens=[])
    tokenizer = Tokenizer.load(folder)
    assert set(tokenizer.special) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert not tokenizer.special_ids & set(tokenizer.encode("<|endoftext|><|im_end|>"))


def test_a_word_that_is_an_added_token_is_left_to_the_exact_program(tmp_path: Path) -> None:
    """1.11: tiktoken would merge it with its neighbours."""
    assert not isinstance(Tokenizer.load(qwen3(tmp_path))._encoder, TiktokenEncoder)


@pytest.mark.parametrize("family", [llama2, llama3, qwen3], ids=lambda family: family.__name__)
@pytest.mark.parametrize("add_bos_token", [True, False, None])
@pytest.mark.parametrize("processor", [True, False])
@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_text_begins_with_bos_as_in_transformers(
    family: Any, add_bos_token: bool | None, processor: bool, kind: str, tmp_path: Path
) -> None:
    """4.6: the post-processor says so, whatever `add_bos_token` says."""
    folder = family(tmp_path)
    change(folder, "tokenizer_config.json", add_bos_token=add_bos_token, tokenizer_class=kind)
    if not processor:
        change(folder, "tokenizer.json", post_processor=None)
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.prompt_ids("one two") == theirs("one two")["input_ids"]
    assert (ours.bos_id is not None) == (processor and family is not qwen3)
