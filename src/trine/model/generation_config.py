"""generation_config.json: a model's default sampling parameters and the tokens that end generation.

These are defaults that a request may override, and do not affect the logits. So, unlike in config.json, unknown keys
(`max_length`, `transformers_version`, settings of beam search ...) are ignored; only an invalid value of a known key is
an error.
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.files import write_json
from trine.runtime.json_object import read_json_object
from trine.tokenizer.files import end_ids

FILE = "generation_config.json"


@dataclass(frozen=True)
class GenerationDefaults:
    """`eos_token_ids` end a text, and so do `stop_strings`. None: not given in the file. `top_k` 0 disables the filter,
    and so does 1 for `top_p` and `repetition_penalty`; `do_sample` False means greedy decoding, whatever the
    temperature."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    max_new_tokens: int | None = None
    stop_strings: tuple[str, ...] | None = None


def read_generation_defaults(folder: Path) -> GenerationDefaults:
    """The defaults in `folder`; without generation_config.json, the special tokens of config.json.

    As in transformers, config.json is not consulted if the file exists. Raises `TrineError` for an invalid value.
    """
    path = Path(folder) / FILE
    if path.exists():
        given, names = read_json_object(path), {field.name for field in fields(GenerationDefaults)}
    else:
        path = Path(folder) / "config.json"
        given, names = read_json_object(path), {"bos_token_id", "pad_token_id"}
    values = {name: _checked(name, given[name], path) for name in names - {"eos_token_ids"} if name in given}
    return GenerationDefaults(eos_token_ids=end_ids(given.get("eos_token_id"), path), **values)


def write_generation_defaults(folder: Path, defaults: GenerationDefaults) -> None:
    """Write generation_config.json into an existing `folder`, where `generate` of transformers reads it too."""
    described = {name: value for name, value in asdict(defaults).items() if value is not None}
    del described["eos_token_ids"]
    ends = list(defaults.eos_token_ids)
    if ends:
        described["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    write_json(folder / FILE, described)


def _checked(name: str, value: Any, path: Path) -> Any:
    """Return a valid `value` of `name`; a negative token id, as in early Llama folders, becomes None."""
    if value is None:
        return None
    whole, number = type(value) is int, type(value) in (int, float)
    if name.endswith("token_id") and whole:
        return value if value >= 0 else None
    if (name == "do_sample" and isinstance(value, bool)) or (name == "top_k" and whole and value >= 0):
        return value
    if name == "max_new_tokens" and whole and value > 0:
        return value
    if name == "stop_strings" and _are_strings(value):
        return (value,) if isinstance(value, str) else tuple(value)
    if name in ("temperature", "top_p", "min_p", "repetition_penalty") and number and 0 <= value < math.inf:
        return float(value)
    raise TrineError(f"{path}: {name}={value!r} is invalid; correct it or remove the key")


def _are_strings(value: Any) -> bool:
    """Whether `value` is text or a list of texts, none of them empty."""
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)
