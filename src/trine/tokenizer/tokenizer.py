"""Tokenizers: one class for Trine's own and those of imported models.

Text never encodes to a special id: `<|im_end|>` typed by a user is ordinary characters (see `encoders.py`).
Added tokens that are not special, such as Qwen3's `<think>`, are ordinary vocabulary.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.records import EncodeArray
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of
from trine.tokenizer.encoders import Encoder, SealedEncoder, TiktokenEncoder, byte_level_ranks
from trine.tokenizer.files import TEMPLATE, TokenizerFiles
from trine.tokenizer.spelling import spelling_of
from trine.tokenizer.text_stream import TextStream


class Tokenizer:
    """Converts text to token ids and back.

    Example::

        tokenizer = Tokenizer.load(Path("runs/base/model"))  # or train_tokenizer(texts, vocab_size=8192)
        ids = tokenizer.encode("def f(x):")
        text = tokenizer.decode(ids)

    `vocab_size` is the highest id plus one; the model may have more embeddings. `end_of_text`, `pad` (the end of text
    if there is no padding token) and `bos_id` (None unless every text begins with BOS) are ids. `special` maps the
    names of special tokens to their ids.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self.files = files
        self.spelling = spelling_of(files.description, files.place)
        added = files.description.get("added_tokens") or []
        self.vocabulary: dict[str, int] = files.description["model"]["vocab"] | {
            token["content"]: token["id"] for token in added
        }
        _check_text(self.vocabulary, files.place)
        # A single character is never special, whatever marks it so: text could not be written without it.
        names = {token["content"] for token in added if token.get("special") and len(token["content"]) > 1}
        self.special = {name: self.vocabulary[name] for name in sorted(names, key=self.vocabulary.__getitem__)}
        self.special_ids = frozenset(self.special.values())
        self.vocab_size = 1 + max(self.vocabulary.values())
        self.end_of_text = self._end_of_text()
        self.pad = self._named("pad_token", self.end_of_text)
        self.bos_id = self.vocabulary.get(files.bos_token or "")

    def _end_of_text(self) -> int:
        end = self._named("eos_token", next(iter(self.files.model_end_ids), -1))
        if end < 0:
            raise TrineError(
                f"no file beside {self.files.place} names the end-of-text token; set eos_token in tokenizer_config.json"
            )
        if end not in self._names:
            raise TrineError(
                f"{self.files.place} has no token with id {end}, the eos_token_id of the model's configs; set "
                "eos_token in tokenizer_config.json"
            )
        return end

    def _named(self, role: str, otherwise: int) -> int:
        return self.vocabulary.get(self.files.named_tokens.get(role, ""), otherwise)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The stop tokens of plain text: the end of text, and the EOS ids in the model's configs."""
        return tuple(dict.fromkeys((self.end_of_text, *self.files.model_end_ids)))

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the model's own chat format."""
        return self.files.chat_template

    def name_of(self, token_id: int) -> str:
        """The vocabulary entry of an id."""
        return self._names[token_id]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {token_id: name for name, token_id in self.vocabulary.items()}

    def with_chat_template(self, template: str) -> "Tokenizer":
        """The same tokenizer with another chat template, to fine-tune a model on."""
        texts = {**self.files.texts, TEMPLATE: template}
        return Tokenizer(TokenizerFiles(texts, self.files.model_end_ids, self.files.place))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id; for special ids those of their name, for unused ids none."""
        table = [b""] * self.vocab_size
        for name, token_id in self.vocabulary.items():
            table[token_id] = self.spelling.bytes_of(name)
        return table

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Ids of single bytes in a vocabulary with byte fallback."""
        return frozenset(token_id for name, token_id in self.vocabulary.items() if self.spelling.is_byte(name))

    @cached_property
    def sealed_encoder(self) -> SealedEncoder:
        """The encoder of chat templates, which can write special tokens too."""
        return SealedEncoder(self.files.description, self.special, self.files.place)

    @cached_property
    def _encoder(self) -> Encoder:
        ranks = self.spelling.byte_level and byte_level_ranks(
            self.files.description, self.vocabulary, self.special, self.token_bytes
        )
        return TiktokenEncoder(ranks, self.files.place) if ranks else self.sealed_encoder

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; names of special tokens in it stay ordinary text."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """`encode` many texts, on `threads` threads if the encoder supports it."""
        return self._encoder.encode_batch(texts, threads)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` as an array, which is faster for long texts."""
        return self._encoder.encode_array(text)

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of plain text for a model to complete, with BOS if the model uses it."""
        return ([] if self.bos_id is None else [self.bos_id]) + self.encode(text)

    def decode(self, ids: Iterable[int], *, keep_special: bool = False, skip: str | None = None) -> str:
        """Text of `ids`; invalid UTF-8 becomes U+FFFD, special ids are dropped unless `keep_special`.

        `skip` as in `TextStream`: "" for ids that continue earlier text.
        """
        stream = TextStream(self, keep_special=keep_special, skip=skip)
        return stream.push(ids) + stream.finish()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of vocabulary and pipeline."""
        return sha256_of(json.dumps(self.files.description, ensure_ascii=False, separators=(",", ":")))

    def save(self, folder: Path) -> None:
        """Save the files, which `transformers` can load, unchanged."""
        self.files.write(Path(folder))

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """The tokenizer of the model in `folder`: tokenizer.json and the files beside it."""
        return Tokenizer(TokenizerFiles.read(folder))


def _check_text(names: Iterable[str], place: str) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise TrineError(f"{place}: an entry of the vocabulary is no text: {error}") from None


def array_encoder(files: TokenizerFiles) -> EncodeArray:
    """`encode_array` of the tokenizer of `files`; a picklable factory with `functools.partial`."""
    return Tokenizer(files).encode_array
