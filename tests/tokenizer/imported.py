"""Folders as other people's models have them: small tokenizers in the style of five families, and chat templates."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers, trainers

from tests.tiny import TEXT

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
AFTER_SPLIT = {**BYTE_LEVEL, "use_regex": False}
PROSE = [
    TEXT,
    "naïve café 日本語の文章 👍🏽 it's they'll\n\n\n  indented   text 2024 and 365 days; <s> [INST] user assistant",
] * 3

TEMPLATES = {path.stem: path.read_text("utf-8") for path in (Path(__file__).parent / "templates").iterdir()}


def gpt2(folder: Path) -> Path:
    """No chat template, no word of its special token but in tokenizer.json and the model's own configs."""
    vocabulary, merges = learned(pre_tokenizers.ByteLevel(add_prefix_space=False))
    end = len(vocabulary)
    vocabulary["<|endoftext|>"] = end
    described = pipeline(vocabulary, merges, [added(end, "<|endoftext|>")], BYTE_LEVEL)
    return written(folder, described, {"model_max_length": 1024}, generation={"eos_token_id": end})


def smollm2(folder: Path, template: str = TEMPLATES["smollm2"]) -> Path:
    """Special tokens first, every digit on its own."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    vocabulary, merges = learned(split, special)
    digits = {"type": "Digits", "individual_digits": True}
    tokens = [added(index, name) for index, name in enumerate(special)]
    described = pipeline(vocabulary, merges, tokens, {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]})
    named = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[2], "unk_token": special[0]}
    return written(folder, described, named | {"chat_template": template})


def llama3(folder: Path) -> Path:
    """Special tokens outside the vocabulary proper, whole words before merges, a post-processor that begins a text."""
    vocabulary, merges = learned(pre_tokenizers.ByteLevel(add_prefix_space=False))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokens = [added(len(vocabulary) + index, name) for index, name in enumerate(names)]
    described = pipeline(vocabulary, merges, tokens, split_by(LLAMA3_SPLIT))
    described["model"]["ignore_merges"] = True
    described["post_processor"] = {"type": "Sequence", "processors": [BYTE_LEVEL, begins_with(tokens[0])]}
    named = {"bos_token": names[0], "eos_token": names[4], "chat_template": TEMPLATES["llama3"]}
    return written(folder, described, named, generation={"eos_token_id": [tokens[1]["id"], tokens[4]["id"]]})


def qwen3(folder: Path, template: str = TEMPLATES["qwen3"]) -> Path:
    """NFC, special tokens behind the vocabulary, and added tokens that are not special."""
    vocabulary, merges = learned(pre_tokenizers.ByteLevel(add_prefix_space=False))
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
    tokens = [added(len(vocabulary) + i, name, special=name.startswith("<|")) for i, name in enumerate(names)]
    described = pipeline(vocabulary, merges, tokens, split_by(QWEN_SPLIT)) | {"normalizer": {"type": "NFC"}}
    named = {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    decoder = {"added_tokens_decoder": {str(token["id"]): without_id(token) for token in tokens}}
    folder = written(folder, described, named | decoder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def glm4(folder: Path) -> Path:
    """Turns that only the next role's marker closes: the end of an answer is `<|user|>`."""
    vocabulary, merges = learned(pre_tokenizers.ByteLevel(add_prefix_space=False))
    names = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    tokens = [added(len(vocabulary) + i, name) for i, name in enumerate(names)]
    described = pipeline(vocabulary, merges, tokens, split_by(LLAMA3_SPLIT))
    named = {"eos_token": names[0], "pad_token": names[0], "chat_template": TEMPLATES["glm4"]}
    return written(folder, described, named, generation={"eos_token_id": [tokens[i]["id"] for i in (0, 4, 6)]})


def llama2(folder: Path, template: str = TEMPLATES["llama2"], normalized: bool = False) -> Path:
    """Byte fallback, `▁` for spaces and before every text; merges that spell `<s>`."""
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces, merges = learned(pre_tokenizers.Metaspace(prepend_scheme="always"), size=300, byte_level=False)
    vocabulary = {name: index for index, name in enumerate([*fixed, *pieces, "s>"])}
    merges = [["s", ">"], ["<", "s>"], *merges]
    tokens = [{**added(index, name), "normalized": normalized} for index, name in enumerate(fixed[:3])]
    described = pipeline(vocabulary, merges, tokens, None)
    described["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    replace = {"pattern": {"String": " "}, "content": "▁"}
    described["normalizer"] = {
        "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", **replace}],
    }  # fmt: skip
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    described["decoder"] = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    described["post_processor"] = begins_with(tokens[1])
    folder = written(folder, described, {"add_bos_token": True, "chat_template": template})
    roles = {"unk_token": tokens[0], "bos_token": tokens[1], "eos_token": tokens[2]}
    named = {role: {key: token[key] for key in NAMED_KEYS} for role, token in roles.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return folder


NAMED_KEYS = ("content", "single_word", "lstrip", "rstrip", "normalized")


def tinyllama(folder: Path) -> Path:
    return llama2(folder, TEMPLATES["zephyr"])


FAMILIES = {
    "gpt2": gpt2, "smollm2": smollm2, "llama3": llama3, "qwen3": qwen3, "llama2": llama2, "tinyllama": tinyllama,
}  # fmt: skip


def learned(
    split: Any, special: list[str] | None = None, size: int = 420, byte_level: bool = True
) -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges learned from PROSE, the bytes or characters first."""
    backend = HuggingFaceTokenizer(models.BPE())
    backend.pre_tokenizer = split
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special or [], initial_alphabet=alphabet, show_progress=False,
        limit_alphabet=256 if byte_level else 80,
    )  # fmt: skip
    backend.train_from_iterator(PROSE, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], model["merges"]


def pipeline(vocabulary: dict[str, int], merges: list[list[str]], tokens: list[dict[str, Any]], split: Any) -> Any:
    """A tokenizer.json; a vocabulary entry that is also an added token is one."""
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": vocabulary, "merges": merges,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None,
        "pre_tokenizer": split, "post_processor": None, "decoder": BYTE_LEVEL, "model": model,
    }  # fmt: skip


def split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, AFTER_SPLIT]}


def added(token_id: int, content: str, special: bool = True) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, **plain, "special": special}


def begins_with(token: dict[str, Any]) -> dict[str, Any]:
    """The post-processor that puts `token` before every text."""
    name = token["content"]
    single = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {name: {"id": name, "ids": [token["id"]], "tokens": [name]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def without_id(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "id"}


def written(
    folder: Path, described: dict[str, Any], config: dict[str, Any], generation: dict[str, Any] | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
