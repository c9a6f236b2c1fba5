"""Conversion of the tokenizer in a GGUF file to tokenizer.json and tokenizer_config.json.

There are two kinds (`tokenizer.ggml.model`): "gpt2" is byte-level BPE with merges and a named pre-tokeniser; "llama" is
SentencePiece's BPE, which merges the neighbours whose result has the highest score. Its merges are all splits of an
entry into two entries, ordered by score, as in `generate_merges` of `transformers`.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gguf.constants import TokenType

from trine.model.generation_config import GenerationDefaults
from trine.model.gguf.container import Container
from trine.model.gguf.splits import SPLITS
from trine.tokenizer.files import CONFIG, PIPELINE, TokenizerFiles

_PREFIX = "tokenizer.ggml."
_KNOWN = {
    "model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges", "add_bos_token", "add_eos_token",
    "add_sep_token", "add_space_prefix", "remove_extra_whitespaces", "prefix_token_id", "suffix_token_id",
    "middle_token_id", "eot_token_id", "eom_token_id", "bos_token_id", "eos_token_id", "unknown_token_id",
    "seperator_token_id", "padding_token_id", "mask_token_id", "cls_token_id", "fim_pre_token_id", "fim_suf_token_id",
    "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id",
}  # fmt: skip
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_MAX_TOKEN_CHARACTERS = 1024
_SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)
SPACE = "▁"
SENTENCEPIECE_NORMALIZER: dict[str, Any] = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
SPACES_ONLY: dict[str, Any] = {
    "type": "Sequence",
    "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
}
_SENTENCEPIECE_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
_BYTE_LEVEL_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def read_tokenizer(container: Container, rows: int, context: int) -> tuple[TokenizerFiles, GenerationDefaults]:
    """The tokenizer of a model with `rows` embeddings, and its BOS and EOS ids."""
    kind = container.metadata.get(_PREFIX + "model")
    if kind not in list(_KINDS):
        container.refuse(_PREFIX + "model", f"is {kind!r}; Trine reads gpt2 (byte-level BPE) and llama (SentencePiece)")
    vocabulary = _Vocabulary.read(container, rows)
    model, pipeline = _KINDS[kind](container, vocabulary)
    adds_bos = vocabulary.flag("add_bos_token", _adds_bos_by_default(container)) and vocabulary.id_of("bos") is not None
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        "post_processor": _bos_processor(vocabulary, vocabulary.id_of("bos")) if adds_bos else None,
        "model": model,
        **pipeline,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **{role: vocabulary.named(short) for role, short in _ROLES.items()},
    }
    template = container.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    texts = {PIPELINE: _text(description), CONFIG: _text(config)}
    generation = _generation(vocabulary)
    return TokenizerFiles(texts, generation.eos_token_ids, str(container.path)), generation


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class _Vocabulary:
    """The entries by id, without trailing fillers, and their types."""

    container: Container
    tokens: list[str]
    types: list[int]

    @staticmethod
    def read(container: Container, rows: int) -> "_Vocabulary":
        unknown = [key for key in container.metadata if key.startswith(_PREFIX)]
        unknown = [key for key in unknown if key.removeprefix(_PREFIX) not in _KNOWN]
        if unknown:
            container.refuse(f"keys {unknown}", "are unknown and could change the token ids, so the file is not loaded")
        tokens = _array(container, "tokens", str, rows)
        types = _array(container, "token_type", int, rows) or [int(TokenType.NORMAL)] * rows
        while tokens and types[-1] == TokenType.UNUSED and tokens[-1] == filler(len(tokens) - 1):
            tokens, types = tokens[:-1], types[:-1]
        if len(set(tokens)) < len(tokens):
            container.refuse(_PREFIX + "tokens", f"holds {Counter(tokens).most_common(1)[0][0]!r} twice")
        if max(map(len, tokens), default=0) > _MAX_TOKEN_CHARACTERS:
            container.refuse(_PREFIX + "tokens", f"holds a token of more than {_MAX_TOKEN_CHARACTERS} characters")
        return _Vocabulary(container, tokens, types)

    def flag(self, name: str, otherwise: bool) -> bool:
        value = self.container.metadata.get(_PREFIX + name, otherwise)
        if type(value) is not bool:
            self.container.refuse(_PREFIX + name, f"is {value!r}, neither true nor false")
        return value

    def id_of(self, role: str) -> int | None:
        """The id of a role such as "eos"."""
        key = f"{_PREFIX}{role}_token_id"
        sentencepiece = self.container.metadata[_PREFIX + "model"] == "llama"
        value = self.container.metadata.get(key, _SENTENCEPIECE_IDS.get(role) if sentencepiece else None)
        if value is not None and (type(value) is not int or not 0 <= value < len(self.tokens)):
            self.container.refuse(key, f"is {value!r}; the vocabulary has {len(self.tokens)} entries")
        return value

    def named(self, role: str) -> str | None:
        token_id = self.id_of(role)
        return None if token_id is None else self.tokens[token_id]

    def added_tokens(self) -> list[dict[str, Any]]:
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": token_id, "content": token, **plain, "special": kind in _SPECIAL}
            for token_id, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (*_SPECIAL, TokenType.USER_DEFINED)
        ]

    def ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}


def filler(token_id: int) -> str:
    """The name of an embedding row without a token."""
    return f"[PAD{token_id}]"


def _array(container: Container, name: str, kind: type, length: int | None) -> list[Any]:
    key = _PREFIX + name
    values = container.metadata.get(key, None if name == "tokens" else [])
    if type(values) is not list or any(type(value) is not kind for value in values):
        container.refuse(key, f"is missing or not an array of {kind.__name__}")
    if length is not None and len(values) not in ({length} if name == "tokens" else {0, length}):
        container.refuse(key, f"has {len(values)} entries, but token_embd.weight has {length} rows")
    return values


def _adds_bos_by_default(container: Container) -> bool:
    """Whether texts begin with BOS if the file has no `add_bos_token`."""
    if container.metadata[_PREFIX + "model"] == "llama":
        return True
    return SPLITS[container.metadata.get(_PREFIX + "pre", "default")].adds_bos


def _byte_level(container: Container, vocabulary: _Vocabulary) -> tuple[dict[str, Any], dict[str, Any]]:
    name = container.metadata.get(_PREFIX + "pre", "default")
    if name not in list(SPLITS):
        container.refuse(_PREFIX + "pre", f"is {name!r}; the supported pre-tokenisers are {', '.join(SPLITS)}")
    split = SPLITS[name]
    if vocabulary.flag("add_space_prefix", otherwise=False):
        container.refuse(_PREFIX + "add_space_prefix", "is true, which is not possible with a byte-level vocabulary")
    ids = vocabulary.ids()
    merges = [merge.split(" ") for merge in _array(container, "merges", str, None)]
    for pair in merges:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= ids.keys():
            container.refuse(
                _PREFIX + "merges", f"holds {' '.join(pair)!r}, which does not merge two entries to a third"
            )
    model = _bpe(ids, merges) | {"ignore_merges": split.ignore_merges}
    pipeline = {"normalizer": split.normalizer, "pre_tokenizer": split.pre_tokenizer, "decoder": _BYTE_LEVEL_DECODER}
    return model, pipeline


def _sentencepiece(container: Container, vocabulary: _Vocabulary) -> tuple[dict[str, Any], dict[str, Any]]:
    if vocabulary.flag("remove_extra_whitespaces", otherwise=False):
        container.refuse(_PREFIX + "remove_extra_whitespaces", "is true, which Trine does not support")
    scores = _array(container, "scores", float, None)
    if len(scores) < len(vocabulary.tokens):
        container.refuse(_PREFIX + "scores", f"has {len(scores)} entries for {len(vocabulary.tokens)} tokens")
    pieces = {
        token: token_id
        for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (TokenType.NORMAL, TokenType.UNUSED)
    }
    model = _bpe(vocabulary.ids(), merges_of_scores(pieces, scores)) | {"fuse_unk": True, "byte_fallback": True}
    model["unk_token"] = vocabulary.named("unknown")
    normalizer, decoder = SENTENCEPIECE_NORMALIZER, dict(_SENTENCEPIECE_DECODER)
    if not vocabulary.flag("add_space_prefix", otherwise=True):
        normalizer = SPACES_ONLY
        decoder["decoders"] = _SENTENCEPIECE_DECODER["decoders"][:-1]
    return model, {"normalizer": normalizer, "pre_tokenizer": None, "decoder": decoder}


def merges_of_scores(pieces: dict[str, int], scores: list[float]) -> list[list[str]]:
    """Every split of a piece into two pieces, ordered by score, then by the length of the left part."""
    ranked: list[tuple[float, int, int, int, str, str]] = []
    for piece, token_id in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                ranked.append((-scores[token_id], -len(left), -len(right), token_id, left, right))
    return [[left, right] for *_, left, right in sorted(ranked)]


def _bpe(ids: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges,
    }


def _bos_processor(vocabulary: _Vocabulary, bos: int | None) -> dict[str, Any]:
    """The post-processor that adds BOS, for readers that ignore `add_bos_token`."""
    token = vocabulary.named("bos")
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    begin, again = ({"SpecialToken": {"id": token, "type_id": number}} for number in range(2))
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, again, second],
        "special_tokens": {token: {"id": token, "ids": [bos], "tokens": [token]}},
    }


def _generation(vocabulary: _Vocabulary) -> GenerationDefaults:
    ends = dict.fromkeys(vocabulary.id_of(role) for role in ("eos", "eot", "eom"))
    return GenerationDefaults(
        eos_token_ids=tuple(end for end in ends if end is not None),
        bos_token_id=vocabulary.id_of("bos"),
        pad_token_id=vocabulary.id_of("padding"),
    )


_KINDS: dict[Any, Callable[[Container, _Vocabulary], tuple[dict[str, Any], dict[str, Any]]]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}
