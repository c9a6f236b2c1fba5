"""The pre-tokenisers that GGUF knows by name, as they are written in tokenizer.json.

GGUF stores only a name (`tokenizer.ggml.pre`); each reader has its own table of names. Ours follows `llama-vocab.cpp`
of ggml-org/llama.cpp, and the published tokenizer.json where that does more (Qwen2 composes characters first).
"""

from dataclasses import dataclass
from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_BYTES = _BYTES | {"use_regex": True}


def _splits(*patterns: str) -> dict[str, Any]:
    """A sequence of splits: each pattern isolates its matches in the pieces that the previous ones left."""
    steps = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, _BYTES]}


@dataclass(frozen=True)
class Split:
    """`ignore_merges`: a piece that is an entry of the vocabulary is not merged. `adds_bos`: texts begin with BOS."""

    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    adds_bos: bool = False


_QWEN2_SPLIT = _splits(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))
_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2_BYTES]}

SPLITS: dict[str, Split] = {
    "gpt-2": Split(_GPT2_BYTES),
    "llama-bpe": Split(_splits(_LLAMA3), ignore_merges=True, adds_bos=True),
    "qwen2": Split(_QWEN2_SPLIT, normalizer={"type": "NFC"}),
    "deepseek-r1-qwen": Split(_QWEN2_SPLIT),
    "smollm": Split(_DIGITS),
    "starcoder": Split(_DIGITS),
    "default": Split(_splits(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
"""By `tokenizer.ggml.pre`; of identical ones the first name is written."""


def split_name(description: dict[str, Any]) -> str | None:
    """GGUF's name of the pre-tokeniser of a tokenizer.json, or None."""
    found = (_plain(description.get("pre_tokenizer")), _plain(description.get("normalizer")))
    ignore_merges = bool(description["model"].get("ignore_merges"))
    for name, split in SPLITS.items():
        if (_plain(split.pre_tokenizer), _plain(split.normalizer)) == found and split.ignore_merges == ignore_merges:
            return name
    return None


def _plain(step: Any) -> Any:
    """Normalize a step: drop keys that do not affect ids, and unwrap sequences of one step."""
    if isinstance(step, list):
        return [_plain(one) for one in step]
    if not isinstance(step, dict):
        return step
    inner = step.get("pretokenizers", step.get("normalizers"))
    if step.get("type") == "Sequence" and inner is not None and len(inner) < 2:
        return _plain(inner[0]) if inner else None
    return {key: _plain(value) for key, value in step.items() if key != "trim_offsets"}
