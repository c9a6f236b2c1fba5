"""Encoders: `tiktoken` where its ids are provably those of `tokenizers`, otherwise `tokenizers`.

Text must never encode to a special id, whatever it contains. `tiktoken` does not look for special tokens unless asked.
For `tokenizers`, every special token is renamed to a random name, generated at loading and never printed: text cannot
contain it, so text cannot produce the token, while the rest of the pipeline (such as stripping spaces around the token)
is unchanged. Special tokens of a chat template are written with these names; see `seal`.

Both encode runs of any length of one kind of character in about linear time. `tiktoken` would give up on about a
million blanks (its regular expression backtracks there), so texts are cut around long runs of white space, at places
where the split pattern ends a piece in any case; see `_around_long_runs`.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from trine.runtime.errors import TrineError
from trine.tokenizer.pipeline import merge_pair

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LONG_RUN = 100_000
# What `\s` is for tiktoken; Python's own `\s` has four control characters more.
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_LONG_RUNS = re.compile(f"(?<!{_SPACE}){_SPACE}{{{LONG_RUN},}}")
_GPT2_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


class Encoder(Protocol):
    """Text to ids; names of special tokens in the text are ordinary text."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]: ...

    def encode_array(self, text: str) -> NDArray[np.uint32]: ...


class TiktokenEncoder:
    """GPT-2's pre-tokenisation and merges, run by `tiktoken`."""

    def __init__(self, ranks: dict[bytes, int], place: str) -> None:
        # `encode_to_numpy` searches for special tokens even if none is allowed, and with an empty list stops at every
        # character (1.7 times slower). A special token that is never allowed avoids this; its name stays ordinary text.
        never = {"<|never|>": max(ranks.values()) + 1}
        self._place, self._ranks, self._never = place, ranks, never
        self._encoding = tiktoken.Encoding("trine", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens=never)

    @cached_property
    def _whole(self) -> tiktoken.Encoding:
        """The merges alone: any text is one piece."""
        return tiktoken.Encoding("whole", pat_str="(?s:.+)", mergeable_ranks=self._ranks, special_tokens=self._never)

    def encode(self, text: str) -> list[int]:
        with _errors_of(self._place, text):
            if not _has_long_run(text):
                return self._encoding.encode_ordinary(text)
            return [token_id for part in self._parts(text) for token_id in part.tolist()]

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        if any(map(_has_long_run, texts)):
            return [self.encode(text) for text in texts]
        with _errors_of(self._place, *texts):
            return self._encoding.encode_ordinary_batch(list(texts), num_threads=threads)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` as an array, without an intermediate list."""
        with _errors_of(self._place, text):
            if _has_long_run(text):
                return np.concatenate([*self._parts(text)])
            return _array(self._encoding, text)

    def _parts(self, text: str) -> Iterator[NDArray[np.uint32]]:
        for part, whole in _around_long_runs(text):
            yield _array(self._whole if whole else self._encoding, part)


def _array(encoding: tiktoken.Encoding, text: str) -> NDArray[np.uint32]:
    try:
        return encoding.encode_to_numpy(text, disallowed_special=())
    except UnicodeEncodeError:
        return encoding.encode_to_numpy(encodable(text), disallowed_special=())


def _has_long_run(text: str) -> bool:
    return len(text) >= LONG_RUN and _LONG_RUNS.search(text) is not None


def _around_long_runs(text: str) -> Iterator[tuple[str, bool]]:
    """`text` in parts that are split independently of each other; True where a part is one piece.

    Of white space before other text GPT-2's pattern makes two pieces: all but the last character, by `\\s+(?!\\S)`, and
    whatever begins with the last one. At the end of a text it is one piece. What is before white space ends there.
    """
    begun = 0
    for run in _LONG_RUNS.finditer(text):
        end = run.end() if run.end() == len(text) else run.end() - 1
        yield text[begun : run.start()], False
        yield text[run.start() : end], True
        begun = end
    yield text[begun:], False


@contextmanager
def _errors_of(place: str, *texts: str) -> Iterator[None]:
    """Errors of programs in Rust, panics included, as a `TrineError` that names the tokenizer and the text."""
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # a BaseException of pyo3 that cannot be imported
        if isinstance(error, TrineError | MemoryError) or not (panic or isinstance(error, Exception)):
            raise
        of = f"; the text begins with {texts[0][:40]!r} and has {len(texts[0]):,} characters" if len(texts) == 1 else ""
        raise TrineError(f"{place} cannot be used: {str(error) or type(error).__name__}{of}") from error


class SealedEncoder:
    """The pipeline of a tokenizer.json, run by `tokenizers`, with special tokens renamed to secret names."""

    def __init__(self, description: dict[str, Any], special: Mapping[str, int], place: str) -> None:
        self._secret = secrets.token_hex(16)
        self._sealed = {name: f"<{self._secret}:{token_id}>" for name, token_id in special.items()}
        self._place = place
        with _errors_of(place):
            self._backend = HuggingFaceTokenizer.from_str(json.dumps(_renamed(description, special, self._sealed)))
        for name, token_id in special.items():
            if self._backend.token_to_id(self._sealed[name]) != token_id:
                raise TrineError(f"{place} gives special token {name} id {token_id}, which its vocabulary contradicts")

    def encode(self, text: str) -> list[int]:
        with _errors_of(self._place, text):
            return list(self._backend.encode(encodable(text), add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        """`tokenizers` chooses the number of threads itself, unless `threads` is 1."""
        if threads == 1:
            return [self.encode(text) for text in texts]
        with _errors_of(self._place, *texts):
            batch = self._backend.encode_batch_fast([encodable(text) for text in texts], add_special_tokens=False)
        return [list(encoding.ids) for encoding in batch]

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        return np.array(self.encode(text), np.uint32)

    @cached_property
    def _names(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._sealed, key=len, reverse=True))) or "(?!)")

    @cached_property
    def _seals(self) -> re.Pattern[str]:
        return re.compile(f"<{self._secret}:([0-9]+)>")

    def names_special(self, text: str) -> bool:
        """Whether `text` contains the name of a special token."""
        return self._names.search(text) is not None

    def seal(self, text: str) -> str:
        """Replace names of special tokens in `text` by their secret names, so that `encode` gives the tokens."""
        return self._names.sub(lambda match: self._sealed[match[0]], text)

    def sealed(self, text: str) -> re.Match[str] | None:
        """The first special token in sealed `text`; group 1 is its id."""
        return self._seals.search(text)

    def unsealed(self, text: str) -> str:
        """Sealed `text` without its special tokens."""
        return self._seals.sub("", text)

    def last_piece(self, text: str) -> str:
        """The last special token or character of sealed `text`."""
        *_, last = [None, *self._seals.finditer(text)]
        return last[0] if last and last.end() == len(text) else text[-1:]

    def veil(self, text: str) -> str:
        """Replace names of special tokens in `text` by placeholders, which `seal` ignores."""
        return self._names.sub(lambda match: self._sealed[match[0]][:-1] + "veiled>", text)

    def unveil(self, text: str) -> str:
        """Undo `veil`."""
        for name, sealed in self._sealed.items():
            text = text.replace(sealed[:-1] + "veiled>", name)
        return text


def byte_level_ranks(
    description: dict[str, Any], vocabulary: Mapping[str, int], special: Mapping[str, int], token_bytes: list[bytes]
) -> dict[bytes, int] | None:
    """Merge ranks for `TiktokenEncoder`, or None if its ids could differ from those of the pipeline.

    `tiktoken` merges in the order of the ids, so ids must be in the order of the merges, and every entry must be a
    byte, a merge or special.
    """
    model = description["model"]
    pre_tokenizer = {key: (description.get("pre_tokenizer") or {}).get(key) for key in _GPT2_PRE_TOKENIZER}
    plain = description.get("normalizer") is None and pre_tokenizer == _GPT2_PRE_TOKENIZER
    unusual = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    words = any(token["content"] not in special for token in description.get("added_tokens") or [])
    if not plain or words or any(model.get(key) for key in unusual):
        return None
    products = [vocabulary.get(left + right, -1) for left, right in map(merge_pair, model["merges"])]
    ranks = {token_bytes[i]: i for i in vocabulary.values() if i not in special.values()}
    single = {data for data in ranks if len(data) == 1}
    ascending = all(first < second for first, second in pairwise(products))
    return ranks if ascending and len(single) == 256 and len(ranks) == 256 + len(products) else None


def _renamed(description: dict[str, Any], special: Mapping[str, int], sealed: Mapping[str, str]) -> dict[str, Any]:
    """tokenizer.json with other names for its special tokens, and without truncation, padding and additions."""
    model = dict(description["model"])
    model["vocab"] = {sealed.get(name, name): token_id for name, token_id in model["vocab"].items()}
    # Without this, a merge could produce a special token from text.
    model["merges"] = [pair for pair in map(merge_pair, model["merges"]) if not {*pair, "".join(pair)} & special.keys()]
    if model.get("unk_token") in sealed:
        model["unk_token"] = sealed[model["unk_token"]]
    added = description.get("added_tokens") or []
    tokens = [{**token, "content": sealed.get(token["content"], token["content"])} for token in added]
    # `tokenizers` numbers added tokens itself, in their order, except those of the vocabulary.
    model["vocab"] |= {token["content"]: token["id"] for token in tokens}
    nothing = {"truncation": None, "padding": None, "post_processor": None}
    return {**description, **nothing, "model": model, "added_tokens": tokens}


def encodable(text: str) -> str:
    """`text` with lone surrogates replaced, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
