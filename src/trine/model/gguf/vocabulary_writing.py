"""Conversion of a Hugging Face tokenizer to GGUF's keys; see `vocabulary.py` for the other direction.

A tokenizer whose pre-tokeniser has no GGUF name is refused: readers of the file would split text differently.
"""

from collections.abc import Sequence, Set
from typing import Any

from gguf.constants import TokenType

from trine.model.gguf.splits import split_name
from trine.model.gguf.vocabulary import (
    SENTENCEPIECE_NORMALIZER,
    SPACE,
    SPACES_ONLY,
    filler,
    merges_of_scores,
)
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer

_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_OTHER_ENDS = ("eot", "eom")
_WORST_SCORE = -1e9


def tokenizer_settings(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The keys under `tokenizer.` for a model with `rows` embeddings; rows without a token get a filler."""
    if tokenizer.vocab_size > rows:
        raise TrineError(f"the tokenizer has {tokenizer.vocab_size} entries, but the model only {rows} embeddings")
    names = {token_id: name for name, token_id in tokenizer.vocabulary.items()}
    tokens = [names.get(token_id, filler(token_id)) for token_id in range(rows)]
    added = {token["content"] for token in tokenizer.files.description.get("added_tokens") or []}
    kinds = [_kind(tokenizer, names.get(token_id), added) for token_id in range(rows)]
    kind = _byte_level(tokenizer) if tokenizer.spelling.byte_level else _sentencepiece(tokenizer, tokens, kinds)
    settings = {"ggml.tokens": tokens, "ggml.token_type": kinds, **kind, **_ids(tokenizer)}
    settings["ggml.add_bos_token"] = tokenizer.bos_id is not None
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    return settings


def _kind(tokenizer: Tokenizer, name: str | None, added: Set[str]) -> int:
    if name is None:
        return int(TokenType.UNUSED)
    if name == tokenizer.files.description["model"].get("unk_token"):
        return int(TokenType.UNKNOWN)
    if name in tokenizer.special:
        return int(TokenType.CONTROL)
    if name in added:
        return int(TokenType.USER_DEFINED)
    return int(TokenType.BYTE if tokenizer.spelling.is_byte(name) else TokenType.NORMAL)


def _ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids by role: those of the tokenizer, then the other end tokens in the model's configs."""
    named = tokenizer.files.named_tokens
    ids = {
        short: tokenizer.vocabulary[named[role]]
        for role, short in _ROLES.items()
        if named.get(role) in tokenizer.vocabulary
    }
    ids["eos"] = tokenizer.end_of_text
    others = [end for end in tokenizer.stop_ids if end != ids["eos"]]
    if len(others) > len(_OTHER_ENDS):
        raise TrineError(f"the model has {len(others) + 1} end tokens; GGUF supports at most {len(_OTHER_ENDS) + 1}")
    ids |= dict(zip(_OTHER_ENDS, others, strict=False))
    return {f"ggml.{role}_token_id": token_id for role, token_id in ids.items()}


def _byte_level(tokenizer: Tokenizer) -> dict[str, Any]:
    name = split_name(tokenizer.files.description)
    if name is None:
        raise TrineError(f"{tokenizer.files.place}: GGUF has no name for this pre-tokeniser; export to hf instead")
    return {"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": [" ".join(pair) for pair in _merges(tokenizer)]}


def _sentencepiece(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    """Scores that reproduce the merges: the score of an entry is minus the rank of its first merge."""
    merges, ranks = _merges(tokenizer), dict[str, int]()
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    scores = [float(-ranks[token]) if token in ranks else _WORST_SCORE for token in tokens]
    pieces = {tokens[token_id]: token_id for token_id, kind in enumerate(kinds) if kind == TokenType.NORMAL}
    again = merges_of_scores(pieces, scores)
    order = [ranks[left + right] for left, right in merges]
    prefix = _space_prefix(tokenizer.files.description)
    # The order of merges with the same result is arbitrary: readers differ in it, and it hardly ever matters.
    if prefix is None or order != sorted(order) or sorted(again) != sorted(merges):
        raise TrineError(
            f"{tokenizer.files.place}: GGUF cannot represent the merges of this tokenizer; export to hf instead"
        )
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.scores": scores, "ggml.add_space_prefix": prefix}


def _space_prefix(description: dict[str, Any]) -> bool | None:
    """Whether a space is put before a text; None if text is prepared in another way than SentencePiece's.

    `transformers` 5 writes Llama-2's preparation as a `Metaspace` step, which puts no second space before a text that
    begins with one; SentencePiece, which the model learned from, and the readers of GGUF do.
    """
    normalizer, split = description.get("normalizer"), description.get("pre_tokenizer")
    if split is None and normalizer in (SENTENCEPIECE_NORMALIZER, SPACES_ONLY):
        return bool(normalizer == SENTENCEPIECE_NORMALIZER)
    if normalizer is None and split is not None and split.get("type") == "Metaspace":
        scheme = split.get("prepend_scheme", "always")
        return None if split.get("split", True) or split.get("replacement") != SPACE else bool(scheme != "never")
    return None


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    """The merges as pairs; tokenizer.json has `"a b"` or `["a", "b"]`."""
    merges = tokenizer.files.description["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in merges]
