"""The optional packages that a config asks for, checked before any work begins.

A run that trains for an hour and then misses a package has lost the hour. So `check_extras` walks a config, whatever
stage it is of, as soon as its run is opened, and a recipe's before its first stage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from trine.config.base import Config, LoopConfig
from trine.config.corpus import FilterConfig, SourceConfig
from trine.config.preferences import RewardConfig
from trine.config.reasoning import ReasoningConfig
from trine.config.use import SamplingConfig
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Extra:
    """`setting` needs `module`, which `pip install 'trine[name]'` installs."""

    name: str
    module: str
    setting: str


def check_extras(config: Config) -> None:
    """Raise `TrineError` if a package that `config` asks for is not installed; names the setting and the command."""
    missing = [extra for extra in extras_of(config) if not _is_installed(extra.module)]
    if missing:
        names = ",".join(dict.fromkeys(extra.name for extra in missing))
        needs = "; ".join(dict.fromkeys(f"{extra.setting} needs {extra.module}" for extra in missing))
        raise TrineError(f"{needs}, which is not installed: pip install 'trine[{names}]'")


def _is_installed(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of that name alone, such as datasets/, has none


def extras_of(value: Any, place: str = "") -> Iterator[Extra]:
    """The optional packages that `value` and the configs in it need; `place` is its key in the whole config."""
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from extras_of(each, f"{place}[{index}]")
    if isinstance(value, Config):
        for kind, needed in _NEEDED.items():
            if isinstance(value, kind):
                yield from needed(value, f"{place}." if place else "")
        for name in type(value).model_fields:
            yield from extras_of(getattr(value, name), f"{place}.{name}" if place else name)


def _of_filters(filters: FilterConfig, place: str) -> Iterator[Extra]:
    if filters.near_duplicates:
        yield Extra("clean", "datasketch", f"{place}near_duplicates")


def _of_source(source: SourceConfig, place: str) -> Iterator[Extra]:
    if source.dataset is not None:
        yield Extra("hub", "datasets", f"{place}dataset")


def _of_reasoning(config: ReasoningConfig, place: str) -> Iterator[Extra]:
    yield Extra("reasoning", "reasoning_gym", f"{place}tasks")


def _of_loop(loop: LoopConfig, place: str) -> Iterator[Extra]:
    for name in loop.trackers:
        yield Extra(name, name, f"{place}trackers {name}")


def _of_sampling(sampling: SamplingConfig, place: str) -> Iterator[Extra]:
    for name in ("json_schema", "regex"):
        if getattr(sampling, name) is not None:
            yield Extra("serve", "llguidance", f"{place}{name}")


def _of_reward(reward: RewardConfig, place: str) -> Iterator[Extra]:
    if reward.kind == "encoder":
        yield Extra("hf", "transformers", f"{place}kind=encoder")


_NEEDED: dict[type[Config], Callable[[Any, str], Iterator[Extra]]] = {
    FilterConfig: _of_filters,
    SourceConfig: _of_source,
    ReasoningConfig: _of_reasoning,
    LoopConfig: _of_loop,
    SamplingConfig: _of_sampling,
    RewardConfig: _of_reward,
}
