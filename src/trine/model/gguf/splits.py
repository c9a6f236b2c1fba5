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

_FALCON_SPLIT = _splits(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")
_WORDS = r" ?[^(\s|.,!?…。，、।۔،)]+"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_UNCASED = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_TEKKEN = rf"{_CASED}*{_UNCASED}+|{_CASED}+{_UNCASED}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = (
    rf"{_CASED}*{_UNCASED}+{_ENDINGS}|{_CASED}+{_UNCASED}*{_ENDINGS}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
) + _ENDS
_SEED_CODER = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_ENDS}"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

SPLITS: dict[str, Split] = {
    "gpt-2": Split(_GPT2_BYTES),
    "llama-bpe": Split(_splits(_LLAMA3), ignore_merges=True, adds_bos=True),
    "qwen2": Split(_QWEN2_SPLIT, normalizer={"type": "NFC"}),
    "deepseek-r1-qwen": Split(_QWEN2_SPLIT),
    "smollm": Split(_DIGITS),
    "starcoder": Split(_DIGITS),
    "default": Split(_splits(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": Split(_FALCON_SPLIT),
    "deepseek-coder": Split(_splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")),
    "viking": Split(_splits(_WORDS, r"\p{N}")),
    "bloom": Split(_splits(_WORDS)),
    "tekken": Split(_splits(_TEKKEN), ignore_merges=True, adds_bos=True),
    "gpt-4o": Split(_splits(_GPT4O)),
    "deepseek-v3": Split(_splits(r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3)),
    "seed-coder": Split(_splits(_SEED_CODER)),
    "bailingmoe": Split(_splits(_BAILING)),
}
"""By `tokenizer.ggml.pre`; of identical ones the first name is written."""
# Names that llama.cpp reads alike.
_ALIASES = {
    "gpt-2": (
        "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt",
        "olmo", "jais", "trillion", "granite-docling", "modern-bert",
    ),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "deepseek-r1-qwen": ("stablelm2", "kormo", "megrez", "hunyuan", "solar-open", "grok-2"),
    "smollm": ("refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    "bloom": ("poro-chat", "gpt3-finnish"),
    "gpt-4o": ("llama4", "kanana2", "minimax-m2"),
    "tekken": ("mistral-bpe",),
    "deepseek-v3": ("hunyuan-dense",),
    "bailingmoe": ("bailingmoe2", "llada-moe"),
}  # fmt: skip
SPLITS |= {alias: SPLITS[name] for name, aliases in _ALIASES.items() for alias in aliases}
# The expression of llama-bpe, whose tokenizers add no BOS and merge what is an entry of the vocabulary too.
SPLITS |= dict.fromkeys(("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), Split(_splits(_LLAMA3)))


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
