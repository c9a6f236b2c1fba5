"""How vocabulary entries represent text: byte-level or with byte fallback, as the decoder in tokenizer.json says.

- Byte-level (GPT-2, Llama-3, Qwen, SmolLM2, Trine): each character of an entry stands for one byte.
- With byte fallback (Llama-2, TinyLlama, Mistral): an entry is text with `▁` for a space; other
  characters are encoded byte by byte, in entries such as `<0x0A>`.
"""

import re
from dataclasses import dataclass
from typing import Any

from trine.runtime.errors import TrineError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_FALLBACK = (
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
)
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


@dataclass(frozen=True)
class Spelling:
    """`leading`: removed from the start of decoded text (Llama-2 puts a space before every text)."""

    byte_level: bool
    leading: str = ""

    def bytes_of(self, entry: str) -> bytes:
        """The bytes that `entry` stands for."""
        if self.byte_level:
            data = [BYTE_OF_CHARACTER.get(character) for character in entry]
            return bytes(byte for byte in data if byte is not None) if None not in data else entry.encode()
        byte = _BYTE.fullmatch(entry)
        return bytes([int(byte[1], 16)]) if byte else entry.replace("▁", " ").encode()

    def is_byte(self, entry: str) -> bool:
        """Whether `entry` is a byte-fallback entry."""
        return not self.byte_level and _BYTE.fullmatch(entry) is not None


def spelling_of(description: dict[str, Any], place: str) -> Spelling:
    """The spelling of the vocabulary in tokenizer.json; raises `TrineError` if it is unsupported."""
    kind = description.get("model", {}).get("type")
    if kind != "BPE":
        raise TrineError(f"{place} is a tokenizer of type {kind}; only BPE is supported: GPT-2, Llama, SmolLM2, Qwen")
    decoder = description.get("decoder") or {}
    if decoder.get("type") == "ByteLevel":
        return Spelling(byte_level=True)
    steps = tuple(decoder.get("decoders", ()))
    if steps == _FALLBACK:
        return Spelling(byte_level=False)
    if steps == (*_FALLBACK, _STRIP):
        return Spelling(byte_level=False, leading=" ")
    raise TrineError(
        f"{place} is a BPE tokenizer with decoder {decoder.get('type')}; Trine reads byte-level ones (GPT-2, "
        "Llama-3, SmolLM2, Qwen) and those with byte fallback (Llama-2)"
    )


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return characters | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()
