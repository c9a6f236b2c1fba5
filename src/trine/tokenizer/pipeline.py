"""The form of tokenizer.json, checked before anything relies on it; every error names the file and the key."""

from typing import Any

from trine.runtime.errors import TrineError

# Far above any vocabulary; tables as long as the highest id are made, so a damaged id must not ask for gigabytes.
MAX_ID = 2**24
MAX_DEPTH = 50


def check_pipeline(pipeline: dict[str, Any], place: str) -> None:
    """Raise `TrineError` unless `pipeline` has the form of a BPE tokenizer's tokenizer.json."""
    model = pipeline.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise TrineError(f"{place} is a tokenizer of type {kind}; only BPE is supported: GPT-2, Llama, SmolLM2, Qwen")
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if not isinstance(pipeline.get(key), dict | None):
            raise TrineError(f"{place}: {key} must be an object or null; it is {str(pipeline[key])[:80]}")
        if _is_deeper(pipeline.get(key), MAX_DEPTH):
            raise TrineError(f"{place}: {key} is nested more than {MAX_DEPTH} deep")
    if model.get("continuing_subword_prefix"):  # `tokenizers` ends the process where merges do not fit it
        raise TrineError(
            f"{place}: model.continuing_subword_prefix is of other tokenizers than Trine reads; set it null"
        )
    _check_vocabulary(model.get("vocab"), place)
    _check_merges(model.get("merges"), place)
    tokens = pipeline.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(map(_is_added_token, tokens)):
        raise TrineError(f"{place}: added_tokens must be a list of objects with id, content and special")


def is_token_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_ID


def merge_pair(merge: str | list[str]) -> tuple[str, str]:
    """The two parts of a merge, written `"a b"` or `["a", "b"]`."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _is_deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_is_deeper(each, depth - 1) for each in inner)


def _check_vocabulary(vocab: Any, place: str) -> None:
    if not isinstance(vocab, dict) or not vocab:
        raise TrineError(f"{place}: model.vocab must be an object of entries with their ids; it is {str(vocab)[:80]}")
    wrong = next((name for name, token_id in vocab.items() if not is_token_id(token_id)), None)
    if wrong is not None:
        raise TrineError(f"{place}: model.vocab gives {wrong!r} the id {vocab[wrong]!r}, which is none")
    if len(set(vocab.values())) < len(vocab):
        names: dict[int, str] = {}
        for name, token_id in vocab.items():
            if names.setdefault(token_id, name) != name:
                raise TrineError(f"{place}: model.vocab gives both {names[token_id]!r} and {name!r} the id {token_id}")


def _check_merges(merges: Any, place: str) -> None:
    for number, merge in enumerate(merges if isinstance(merges, list) else [None]):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise TrineError(f"{place}: model.merges[{number}] must be two entries; it is {str(merge)[:80]}")


def _is_added_token(token: Any) -> bool:
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        return False
    return is_token_id(token.get("id")) and type(token.get("special", False)) is bool
