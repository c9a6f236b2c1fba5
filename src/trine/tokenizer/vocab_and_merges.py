"""tokenizer.json made from vocab.json and merges.txt, as folders have them that older programs wrote.

These two files do not say how text is split before merging; the model's kind does (`tokenizer_class` of
tokenizer_config.json, else `model_type` of config.json). GPT-2's and Qwen2's splits are known here, others are refused.
"""

import json
import re
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.json_object import read_json_object, read_text

VOCABULARY, MERGES, SENTENCEPIECE = "vocab.json", "merges.txt", "tokenizer.model"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
            _BYTE_LEVEL | {"use_regex": False},
        ],
    },
}
_GPT2 = {"normalizer": None, "pre_tokenizer": _BYTE_LEVEL}
_KINDS: dict[str, dict[str, Any]] = {"gpt2": _GPT2, "qwen2": _QWEN2, "qwen3": _QWEN2}
_NAME_OF_A_TOKEN = re.compile(r"<.*>|\[.*\]", re.DOTALL)
_END_OF_TEXT = "<|endoftext|>"  # special in both kinds, whether or not a file says so


def pipeline_of(folder: Path) -> str:
    """The text of tokenizer.json for the tokenizer in `folder`; raises `TrineError` if it cannot be made."""
    if not (folder / VOCABULARY).exists() or not (folder / MERGES).exists():
        raise TrineError(_missing(folder))
    pieces = _split_of(folder)
    vocabulary = read_json_object(folder / VOCABULARY)
    merges = _merges(folder / MERGES, vocabulary)
    _check_reached(vocabulary, merges, folder)
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": vocabulary, "merges": merges,
    }  # fmt: skip
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ends = [{"id": vocabulary[_END_OF_TEXT], "content": _END_OF_TEXT, **plain}] if _END_OF_TEXT in vocabulary else []
    pipeline = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": ends, **pieces}
    pipeline |= {"post_processor": None, "decoder": _BYTE_LEVEL, "model": model}
    return json.dumps(pipeline, ensure_ascii=False, indent=2) + "\n"


def _check_reached(vocabulary: dict[str, Any], merges: list[list[str]], folder: Path) -> None:
    """Refuse a vocabulary with ordinary entries that no merge makes: lines of merges.txt are missing."""
    reached = {left + right for left, right in merges}
    lost = [
        name for name in vocabulary if len(name) > 1 and name not in reached and not _NAME_OF_A_TOKEN.fullmatch(name)
    ]
    if lost:
        raise TrineError(
            f"{folder / MERGES} makes no {lost[0]!r}, nor {len(lost) - 1} more entries of {VOCABULARY}: one of the "
            "files is damaged or another model's; download both again"
        )


def _missing(folder: Path) -> str:
    """What is wrong with a folder that has neither tokenizer.json nor both of the older files."""
    if (folder / SENTENCEPIECE).exists():
        return (
            f"{folder / SENTENCEPIECE} is SentencePiece's own format, and tokenizer.json is missing beside it; make it "
            f"with transformers and sentencepiece installed: AutoTokenizer.from_pretrained({str(folder)!r})"
            f".save_pretrained({str(folder)!r})"
        )
    halves = [name for name in (VOCABULARY, MERGES) if (folder / name).exists()]
    if halves:
        other = MERGES if halves == [VOCABULARY] else VOCABULARY
        return f"{folder / halves[0]} is half a tokenizer: {other} is missing beside it, or tokenizer.json"
    return f"{folder / 'tokenizer.json'} does not exist"


def _split_of(folder: Path) -> dict[str, Any]:
    """Normalizer and pre-tokenizer of the model's kind."""
    named = _value(folder / "tokenizer_config.json", "tokenizer_class")
    named = named.removesuffix("Fast").removesuffix("Tokenizer").lower() if isinstance(named, str) else None
    kind = named or _value(folder / "config.json", "model_type")
    if kind not in list(_KINDS):
        raise TrineError(
            f"{folder / VOCABULARY}: how text is split is in tokenizer.json, which is missing, and the kind of model, "
            f"{kind!r}, is not one whose split is known ({', '.join(_KINDS)}); make tokenizer.json with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    pieces = _KINDS[kind]
    if kind == "gpt2" and _value(folder / "tokenizer_config.json", "add_prefix_space") is True:
        return {**pieces, "pre_tokenizer": _BYTE_LEVEL | {"add_prefix_space": True}}
    return pieces


def _value(path: Path, key: str) -> Any:
    return read_json_object(path).get(key) if path.exists() else None


def _merges(path: Path, vocabulary: dict[str, Any]) -> list[list[str]]:
    """The merges, one a line; each makes an entry of the vocabulary out of two others."""
    merges = []
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise TrineError(f"{path}:{number}: {line[:80]!r} does not merge two entries of {VOCABULARY} to a third")
        merges.append(pair)
    return merges
