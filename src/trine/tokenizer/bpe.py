"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): GPT-2's split pattern, no normaliser, no unknown token.

Trained by `tokenizers`, encoded by `tiktoken` running the same merges (several times faster; a test holds the two
to identical ids). The first four ids are reserved, in this order: end of text, pad, start of turn, end of turn.
Text never encodes to a reserved id: `<|im_end|>` typed by a user is nine ordinary characters.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, sha256_of, write_json, write_text

END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, TURN_START, TURN_END)
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Tokenizer:
    """Text to token ids and back. Make one with `train_tokenizer` or `Tokenizer.load`."""

    def __init__(self, backend: HuggingFaceTokenizer) -> None:
        self.backend = backend
        self.vocab_size: int = backend.get_vocab_size()
        self.end_of_text = self._special(END_OF_TEXT)
        self.pad = self._special(PAD)
        self.turn_start = self._special(TURN_START)
        self.turn_end = self._special(TURN_END)

    def _special(self, token: str) -> int:
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise TrineError(f"the tokenizer lacks the reserved token {token}; train one with `trine tokenizer`")
        return int(token_id)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; reserved ids stand for their own name."""
        table = _byte_of_character()
        pieces = [self.backend.id_to_token(token_id) for token_id in range(self.vocab_size)]
        return [
            piece.encode() if piece in SPECIAL_TOKENS else bytes(table[character] for character in piece or "")
            for piece in pieces
        ]

    @cached_property
    def _encoder(self) -> tiktoken.Encoding:
        special = {token: self._special(token) for token in SPECIAL_TOKENS}
        ranks = {data: token_id for token_id, data in enumerate(self.token_bytes) if token_id not in special.values()}
        return tiktoken.Encoding("trine", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; names of reserved tokens in it stay ordinary text."""
        return self._encoder.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """`encode` of many texts, on `threads` threads."""
        return self._encoder.encode_ordinary_batch(list(texts), num_threads=threads)

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Text of `ids`; broken UTF-8 becomes U+FFFD, reserved ids vanish unless `keep_special`."""
        special = (self.end_of_text, self.pad, self.turn_start, self.turn_end)
        pieces = (self.token_bytes[i] for i in ids if keep_special or i not in special)
        return b"".join(pieces).decode("utf-8", "replace")

    @property
    def fingerprint(self) -> str:
        """A hash of vocabulary and merges."""
        return sha256_of(self.backend.to_str())

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json as `transformers` reads them."""
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": None,
                "eos_token": END_OF_TEXT,
                "pad_token": PAD,
                "additional_special_tokens": [TURN_START, TURN_END],
                "chat_template": CHATML_TEMPLATE,
                "clean_up_tokenization_spaces": False,
                "model_max_length": 1_000_000_000,
            },
        )

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """Read `folder`/tokenizer.json."""
        path = Path(folder) / "tokenizer.json"
        description: dict[str, Any] = read_json(path)
        if description.get("model", {}).get("type") != "BPE":
            raise TrineError(f"{path} is not a byte-level BPE tokenizer; Trine reads no other kind")
        return Tokenizer(HuggingFaceTokenizer.from_str(json.dumps(description)))


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, progress: bool = False) -> Tokenizer:
    """Learn merges from `texts` until the vocabulary, reserved ids included, has `vocab_size` entries.

    Deterministic in the texts. Raises `TrineError` when the texts are too few for so many entries.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TrineError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} reserved tokens "
            f"need at least {SMALLEST_VOCABULARY}"
        )
    backend = HuggingFaceTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() < vocab_size:
        raise TrineError(
            f"the corpus is too small for vocab_size={vocab_size}: it yields only "
            f"{backend.get_vocab_size()} entries; give more text or a smaller vocabulary"
        )
    return Tokenizer(backend)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return characters | {chr(256 + index): byte for index, byte in enumerate(others)}
