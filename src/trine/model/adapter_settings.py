"""adapter_config.json of PEFT: which modules an adapter changes, with which rank and scale.

All that decides the numbers is read: patterns of ranks and scales, targets by name or by expression, layers,
exclusions. Which other keys may be passed over is the rule of config_keys.py; the rest is refused by name. Expressions
come from strangers, so matching them has a time limit.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from trine.model.config_keys import could_change_numbers, how_to_ignore
from trine.runtime.errors import TrineError
from trine.runtime.json_object import read_json_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
MAX_NUMBER = 2**31
MATCHING_SECONDS = 2.0
_READ = {
    "peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "lora_bias", "bias",
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "modules_to_save", "init_lora_weights",
    "trainable_token_indices", "ensure_weight_tying",
}  # fmt: skip
# Origin, training, and settings of initialisations and kernels. `fan_in_fan_out` describes how the base stores its
# weight; the adapter's own matrices are stored the same way either way.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core", "megatron_config",
    "qalora_group_size", "runtime_config", "task_type", "eva_config", "corda_config", "loftq_config", "lora_ga_config",
}  # fmt: skip
# Other initialisations (pissa, olora, corda, loftq, ...) change the base weights, and the adapter needs those.
_BASE_PRESERVING_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class AdapterSettings:
    """What adapter_config.json says of the numbers; `place` is the file, for messages."""

    place: str
    described: dict[str, Any]

    def rank(self, module: str) -> int:
        return _by_pattern(self.described.get("rank_pattern"), module, self.described["r"], self.place)

    def scale(self, module: str) -> float:
        """alpha / rank, or alpha / sqrt(rank) where rank-stabilized (Kalajdzievski 2023)."""
        alpha = _by_pattern(self.described.get("alpha_pattern"), module, self.described["lora_alpha"], self.place)
        rank = self.rank(module)
        return alpha / (rank**0.5 if self.described.get("use_rslora") else rank)

    def is_target(self, module: str, *, linear: bool) -> bool:
        """Whether the adapter changes `module` (`linear`: a matrix of a block), by PEFT's own rules."""
        said = self.described
        if any(f".{name}." in f".{module}." for name in said.get("modules_to_save") or []):
            return False
        excluded, targets = said.get("exclude_modules"), said["target_modules"]
        if excluded and _is_named(module, excluded, self.place):
            return False
        if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
            return linear
        if isinstance(targets, str):
            return _matches(targets, module, self.place)
        return _is_named(module, targets, self.place) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        layers = self.described.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        patterns = _names(self.described.get("layers_pattern")) or [r"[^.]*"]
        for pattern in patterns:
            found = _search(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", module, self.place)
            if found is not None:
                return int(found) in (layers if isinstance(layers, list) else [layers])
        return False


def read_settings(folder: Path, ignored: Collection[str] = ()) -> AdapterSettings:
    """The settings in `folder`; raises `TrineError` naming an unsupported one."""
    path = folder / CONFIG
    described = read_json_object(path, ignored)
    place = str(path)
    if described.get("peft_type") != "LORA":
        raise TrineError(
            f"{place}: peft_type={described.get('peft_type')!r}; only 'LORA' is supported: merge others with "
            "merge_and_unload of peft, and save the model"
        )
    missing = [key for key in ("r", "lora_alpha", "target_modules") if described.get(key) is None]
    if missing:
        raise TrineError(f"{place}: keys {missing} are missing")
    for key in could_change_numbers(described, _READ | _HARMLESS):
        raise TrineError(
            f"{place}: {key}={described[key]!r:.80} could change the results and is not supported; "
            f"{how_to_ignore([key])}"
        )
    _check_values(described, place)
    return AdapterSettings(place, described)


def _check_values(described: dict[str, Any], place: str) -> None:
    for key, is_right, expected in _KINDS:
        value = described.get(key)
        if value is not None and not is_right(value):
            raise TrineError(f"{place}: {key}={value!r:.80} must be {expected}")
    start = described.get("init_lora_weights", True)
    if not isinstance(start, str | bool | None) or start not in _BASE_PRESERVING_INITS:
        raise TrineError(
            f"{place}: init_lora_weights={start!r:.80} changes the base weights; convert the adapter to plain "
            "LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_NUMBER


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER  # NaN is not <= either


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_indices(value: Any) -> bool:
    return isinstance(value, list) and all(type(index) is int and 0 <= index <= MAX_NUMBER for index in value)


_KINDS = (
    ("r", _is_rank, "a positive integer"),
    ("lora_alpha", _is_alpha, "a finite number"),
    *((key, lambda value: isinstance(value, bool), "true or false")
      for key in ("use_rslora", "use_dora", "lora_bias", "ensure_weight_tying")),
    ("bias", lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    *((key, lambda value: isinstance(value, str) or _is_names(value), "a list of module names, or an expression")
      for key in ("target_modules", "exclude_modules", "layers_pattern")),
    ("modules_to_save", _is_names, "a list of module names"),
    ("rank_pattern", lambda value: isinstance(value, dict) and all(map(_is_rank, value.values())),
     "positive integers by module name"),
    ("alpha_pattern", lambda value: isinstance(value, dict) and all(map(_is_alpha, value.values())),
     "finite numbers by module name"),
    ("layers_to_transform", lambda value: _is_indices([value]) or _is_indices(value), "an index or a list of them"),
    ("trainable_token_indices", lambda value: _is_indices(value)
     or (isinstance(value, dict) and all(map(_is_indices, value.values()))), "token ids, or token ids by module name"),
)  # fmt: skip


def _names(value: Any) -> list[str]:
    return [] if not value else [value] if isinstance(value, str) else value


def _is_named(module: str, named: Any, place: str) -> bool:
    if isinstance(named, str):
        return _matches(named, module, place)
    return any(module == name or module.endswith(f".{name}") for name in named)


def _by_pattern(values: dict[str, Any] | None, module: str, otherwise: Any, place: str) -> Any:
    """The value of the first key that is an expression for the end of the module's name."""
    for pattern, value in (values or {}).items():
        if _matches(rf"(.*\.)?({pattern})", module, place):
            return value
    return otherwise


def _matches(pattern: str, module: str, place: str) -> bool:
    return _compiled(pattern, place, lambda: regex.fullmatch(pattern, module, timeout=MATCHING_SECONDS)) is not None


def _search(pattern: str, module: str, place: str) -> str | None:
    found = _compiled(pattern, place, lambda: regex.match(pattern, module, timeout=MATCHING_SECONDS))
    return None if found is None else found["index"]


def _compiled(pattern: str, place: str, match: Any) -> Any:
    try:
        return match()
    except regex.error as error:
        raise TrineError(f"{place}: {pattern!r:.80} is no regular expression: {error}") from None
    except (TimeoutError, RecursionError, MemoryError, OverflowError):
        raise TrineError(f"{place}: {pattern!r:.80} takes too long to match; name the modules instead") from None
