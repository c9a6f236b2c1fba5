"""How vocabulary entries represent text: byte-level or with byte fallback, as the decoder in tokenizer.json says.

- Byte-level (GPT-2, Llama-3, Qwen, SmolLM2, Trine): each character of an entry stands for one byte.
- With byte fallback (Llama-2, TinyLlama, Mistral): an entry is text with `▁` for a space; other
  characters are encoded byte by byte, in entries such as `<0x0A>`. The decoder is a sequence of `Replace`,
  `ByteFallback`, `Fuse` and `Strip`, or `Metaspace` in place of some of them.
"""

import re
from dataclasses import dataclass
from typing import Any

from trine.runtime.errors import TrineError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LOW_LINES = ({"String": "▁"}, {"Regex": "▁"})


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
    steps = _steps(description.get("decoder") or {})
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling(byte_level=True)
    spaces = [_is_spaces(step) for step in steps].count(True)
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    strips = [_is_strip(step) for step in steps[fused:]].count(True)  # before they are joined, each token is stripped
    if spaces == 1 and spaces + strips + kinds.count("ByteFallback") + kinds.count("Fuse") == len(steps) and strips < 2:
        return Spelling(byte_level=False, leading=" " if strips or any(map(_strips_first, steps)) else "")
    raise TrineError(
        f"{place} is a BPE tokenizer with decoder {', '.join(map(str, kinds))}; Trine reads byte-level ones (GPT-2, "
        "Llama-3, SmolLM2, Qwen) and those that write ▁ for a space (Llama-2)"
    )


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The decoder as a flat list of steps."""
    inner = decoder.get("decoders") if decoder.get("type") == "Sequence" else None
    if isinstance(inner, list) and all(isinstance(step, dict) for step in inner):
        return [step for one in inner for step in _steps(one)]
    return [decoder]


def _is_spaces(step: dict[str, Any]) -> bool:
    """Whether the step writes spaces for ▁, which is the same text as a regular expression."""
    if step.get("type") == "Metaspace":
        return step.get("replacement") == "▁"
    return step.get("type") == "Replace" and step.get("content") == " " and step.get("pattern") in _LOW_LINES


def _is_strip(step: dict[str, Any]) -> bool:
    return step == {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _strips_first(step: dict[str, Any]) -> bool:
    """Whether a Metaspace step removes the space that it puts before a text."""
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    return step.get("type") == "Metaspace" and scheme != "never"


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return characters | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()
