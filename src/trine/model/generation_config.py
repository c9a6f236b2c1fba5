"""generation_config.json: what a model's makers suggest for generating with it, and the tokens it stops at.

These are defaults that a request may override, not numbers of the network. So, unlike in config.json, keys that Trine
does not know are passed over (`max_length`, `transformers_version`, a beam search's settings ...), never refused;
only a known key whose value makes no sense is an error.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trine.model.json_object import read_json_object
from trine.runtime.errors import TrineError
from trine.runtime.files import write_json

FILE = "generation_config.json"


@dataclass(frozen=True)
class GenerationDefaults:
    """`eos_token_ids` end a text. None: the file says nothing. `top_k` 0 is off, as is `top_p` or
    `repetition_penalty` 1; `do_sample` False means greedy, whatever the temperature."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None


def read_generation_defaults(folder: Path) -> GenerationDefaults:
    """The defaults in `folder`; without a generation_config.json, the special tokens of its config.json.

    As in transformers, the file counts alone where there is one. Raises `TrineError` naming a value that makes no
    sense for its key.
    """
    path = Path(folder) / FILE
    if path.exists():
        given, names = read_json_object(path), {field.name for field in fields(GenerationDefaults)}
    else:
        path = Path(folder) / "config.json"
        given, names = read_json_object(path), {"bos_token_id", "pad_token_id"}
    ends = given.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    values = {name: _checked(name, given[name], path) for name in names - {"eos_token_ids"} if name in given}
    ids = (_checked("eos_token_id", end, path) for end in ends)
    return GenerationDefaults(eos_token_ids=tuple(end for end in ids if end is not None), **values)


def write_generation_defaults(folder: Path, defaults: GenerationDefaults) -> None:
    """Write generation_config.json into an existing `folder`, so that `generate` of transformers stops alike."""
    described: dict[str, Any] = {
        field.name: getattr(defaults, field.name)
        for field in fields(defaults)
        if field.name != "eos_token_ids" and getattr(defaults, field.name) is not None
    }
    ends = list(defaults.eos_token_ids)
    if ends:
        described["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    write_json(folder / FILE, described)


def _checked(name: str, value: Any, path: Path) -> Any:
    """`value` of a sensible type for `name`; None also for a negative token id, as early Llama folders have it."""
    if value is None:
        return None
    if name.endswith("token_id"):
        if type(value) is int:
            return value if value >= 0 else None
    elif name == "do_sample":
        if isinstance(value, bool):
            return value
    elif name == "top_k":
        if type(value) is int and value >= 0:
            return value
    elif type(value) in (int, float) and 0 <= value < math.inf:
        return float(value)
    raise TrineError(f"{path}: {name}={value!r} makes no sense; correct it or remove the key")
