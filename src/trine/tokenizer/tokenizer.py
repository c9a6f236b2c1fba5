"""The tokenizer of a model, one interface for Trine's own and for those of imported models.

Text never encodes to a special id: `<|im_end|>` typed by a user is ordinary characters (`encoders.py` says how).
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
    """Text to token ids and back. Make one with `train_tokenizer` or `Tokenizer.load`.

    `vocab_size`: one more than the highest id; the model's vocabulary may be larger. `end_of_text`, `pad` (the end
    of text where the model has no padding token), `bos_id` (None unless every text begins with it) are ids.
    `special` maps names of special tokens to their ids.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self.files = files
        self.spelling = spelling_of(files.description, files.place)
        added = {token["content"]: token for token in files.description.get("added_tokens", [])}
        self.vocabulary: dict[str, int] = files.description["model"]["vocab"] | {
            name: token["id"] for name, token in added.items()
        }
        named = {name for name in files.named_tokens.values() if name in self.vocabulary}
        names = named | {name for name, token in added.items() if token["special"]}
        self.special = {name: self.vocabulary[name] for name in sorted(names, key=self.vocabulary.__getitem__)}
        self.special_ids = frozenset(self.special.values())
        self.vocab_size = 1 + max(self.vocabulary.values())
        self.end_of_text = self._end_of_text()
        self.pad = self._named("pad_token", self.end_of_text)
        self.bos_id = self.special.get(files.opening_token or "")

    def _end_of_text(self) -> int:
        end = self._named("eos_token", next(iter(self.files.model_end_ids), -1))
        if end < 0:
            raise TrineError(
                f"nothing beside {self.files.place} says which token ends a text; name it as eos_token in "
                "tokenizer_config.json"
            )
        return end

    def _named(self, role: str, otherwise: int) -> int:
        return self.special.get(self.files.named_tokens.get(role, ""), otherwise)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends sampling of plain text: the end of text, and what the model's configs name."""
        return tuple(dict.fromkeys((self.end_of_text, *self.files.model_end_ids)))

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the model's own chat format."""
        return self.files.chat_template

    def name_of(self, token_id: int) -> str:
        """How the vocabulary spells an id."""
        return next(name for name, known in self.vocabulary.items() if known == token_id)

    def with_chat_template(self, template: str) -> "Tokenizer":
        """The same tokenizer with another chat template, for a model that is to learn it."""
        texts = {**self.files.texts, TEMPLATE: template}
        return Tokenizer(TokenizerFiles(texts, self.files.model_end_ids, self.files.place))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; special ids stand for their own name, unused ids for nothing."""
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
        return TiktokenEncoder(ranks) if ranks else self.sealed_encoder

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; names of special tokens in it stay ordinary text."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """`encode` of many texts, on `threads` threads where the encoder lets one choose."""
        return self._encoder.encode_batch(texts, threads)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` as an array, which is faster for long texts."""
        return self._encoder.encode_array(text)

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of plain text that a model is to go on from, behind the token that the model begins texts with."""
        return ([] if self.bos_id is None else [self.bos_id]) + self.encode(text)

    def decode(self, ids: Iterable[int], *, keep_special: bool = False, skip: str | None = None) -> str:
        """Text of `ids`; broken UTF-8 becomes U+FFFD, special ids vanish unless `keep_special`.

        `skip` as in `TextStream`: "" for ids that go on from earlier text.
        """
        stream = TextStream(self, keep_special=keep_special, skip=skip)
        return stream.push(ids) + stream.finish()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of vocabulary and pipeline."""
        return sha256_of(json.dumps(self.files.description, ensure_ascii=False, separators=(",", ":")))

    def save(self, folder: Path) -> None:
        """Write the files that `transformers` reads, as they were loaded."""
        self.files.write(Path(folder))

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """The tokenizer of the model in `folder`: tokenizer.json and the files beside it."""
        return Tokenizer(TokenizerFiles.read(folder))


def array_encoder(files: TokenizerFiles) -> EncodeArray:
    """`encode_array` of the tokenizer of `files`; with `functools.partial`, a way to make it in another process."""
    return Tokenizer(files).encode_array
