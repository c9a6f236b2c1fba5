"""The pre-tokenisers that GGUF names, as tokenizer.json spells them, walked in both directions.

GGUF says `tokenizer.ggml.pre` and leaves the rest to the reader's own table; ours follows `llama-vocab.cpp` of
ggml-org/llama.cpp and, where a published tokenizer.json does more than llama.cpp (Qwen2 composes characters first),
that file.
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
    """Each pattern in turn cuts its matches out of what the ones before it left in one piece."""
    steps = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, _BYTES]}


@dataclass(frozen=True)
class Split:
    """`whole_first`: an entry that spells a whole piece wins over its merges. `opened`: texts begin with BOS."""

    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    whole_first: bool = False
    opened: bool = False


_QWEN2_SPLIT = _splits(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))
_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2_BYTES]}

SPLITS: dict[str, Split] = {
    "gpt-2": Split(_GPT2_BYTES),
    "llama-bpe": Split(_splits(_LLAMA3), whole_first=True, opened=True),
    "qwen2": Split(_QWEN2_SPLIT, normalizer={"type": "NFC"}),
    "deepseek-r1-qwen": Split(_QWEN2_SPLIT),
    "smollm": Split(_DIGITS),
    "starcoder": Split(_DIGITS),
    "default": Split(_splits(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
"""By `tokenizer.ggml.pre`; of two that are the same the first is written."""


def split_name(description: dict[str, Any]) -> str | None:
    """What GGUF calls the pre-tokeniser of a tokenizer.json, None when it has no name for it."""
    found = (_plain(description.get("pre_tokenizer")), _plain(description.get("normalizer")))
    whole_first = bool(description["model"].get("ignore_merges"))
    for name, split in SPLITS.items():
        if (_plain(split.pre_tokenizer), _plain(split.normalizer)) == found and split.whole_first == whole_first:
            return name
    return None


def _plain(step: Any) -> Any:
    """A step without what has no bearing on ids, and sequences of one step as that step."""
    if isinstance(step, list):
        return [_plain(one) for one in step]
    if not isinstance(step, dict):
        return step
    inner = step.get("pretokenizers", step.get("normalizers"))
    if step.get("type") == "Sequence" and inner is not None and len(inner) < 2:
        return _plain(inner[0]) if inner else None
    return {key: _plain(value) for key, value in step.items() if key != "trim_offsets"}
