"""What `--dry-run` checks: that every input of a command is there and can be used, and every extra it needs installed.

Inputs are found by their fields' types and names. What an earlier step of a recipe writes counts as there. Nothing is
downloaded: names on the hub are noted, not looked up.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trine.config.base import Config, HardwareConfig, StageConfig
from trine.config.control import ControlConfig
from trine.config.corpus import CorpusConfig, SourceConfig
from trine.config.dpo import DpoConfig
from trine.config.evaluation import EvaluateConfig
from trine.config.extras import check_extras
from trine.config.fields import config_fields, is_name
from trine.config.rewards import RewardPart, is_reward, parts_of, reward_kind
from trine.runtime.errors import TrineError

# Fields of a path that are written, not read.
_WRITTEN = ("out", "film")
# Fields of records, which may be a data set on the hub.
OF_RECORDS = ("examples", "held_out", "prompts", "records", "labels", "scores", "pairs", "rankings", "judgements")


def check_inputs(config: Config, earlier: Mapping[Path, StageConfig], place: str) -> list[str]:
    """Notes about what could not be checked. Raises `TrineError` naming `place` and every input that will not do."""
    notes: list[str] = []
    mistakes: list[str] = []
    for check in _checks(config, earlier):
        try:
            note = check()
            notes += [note] if note else []
        except TrineError as error:
            mistakes.append(f"{place}: {error}")
    if mistakes:
        raise TrineError("\n".join(mistakes))
    return notes


Check = Callable[[], str | None]


def _checks(config: Config, earlier: Mapping[Path, StageConfig]) -> Iterator[Check]:
    yield partial(check_extras, config)
    for field in config_fields(type(config)):
        value = _value(config, field.name)
        name = field.name.rpartition(".")[2]
        if value is None or value == "" or name in _WRITTEN or _made_before(value, earlier):
            continue
        if is_reward(field.kind):
            yield from (
                partial(_check_reward, part) for part in parts_of(value) if not _made_before(part.name, earlier)
            )
        elif is_name(field.kind):
            names = (
                each for each in (value if isinstance(value, tuple) else (value,)) if not _made_before(each, earlier)
            )
            yield from (
                partial(_check_adapter if name == "adapter" else _check_name, str(each), name) for each in names
            )
        elif isinstance(config, StageConfig):
            given = value if isinstance(value, tuple) and name in OF_RECORDS else (value,)
            paths = [each for each in given if isinstance(each, Path)]
            of_records = name in OF_RECORDS or (name == "preferences" and isinstance(config, DpoConfig))
            yield from (
                partial(_check_path, each, name, of_records) for each in paths if not _made_before(each, earlier)
            )
    for value in dict(config).values():
        if isinstance(value, HardwareConfig):
            yield partial(_check_hardware, value)
        if isinstance(value, CorpusConfig) and getattr(config, "shards", None) is None:
            yield from _corpus_checks(value, earlier)
    if isinstance(config, ControlConfig):
        yield partial(_check_environment, config)
    if isinstance(config, EvaluateConfig):
        yield partial(_check_tasks, config)


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _made_before(value: Any, earlier: Mapping[Path, StageConfig]) -> bool:
    """Whether an earlier step of the recipe writes it."""
    return isinstance(value, str | Path) and any(folder in (Path(value), *Path(value).parents) for folder in earlier)


def _check_adapter(place: str, _: str) -> str | None:
    from trine.catalog.locating import find_adapter, is_hub_name

    if not Path(place).exists() and is_hub_name(place):
        return f"{place}: on the Hugging Face hub, not looked up"
    find_adapter(place)
    return None


def _check_name(name: str, field: str) -> str | None:
    """A model."""
    from trine.catalog.locating import SMOLLM2, find_model, is_hub_name, packaged_smollm2

    if Path(name).exists() or (name == SMOLLM2 and packaged_smollm2()):
        find_model(name)
    elif name == SMOLLM2 or is_hub_name(name):
        return f"{name}: on the Hugging Face hub, not looked up"
    else:
        find_model(name)
    return None


def _check_reward(part: RewardPart) -> str | None:
    """Servers are not asked: what they answer is seen when a run tries its reward, before anything is sampled."""
    if reward_kind(part.name) == "model":
        return _check_name(part.name, "reward")
    from trine.catalog.rewards import code_fingerprint, open_without_model

    open_without_model(part)
    code_fingerprint(part)  # reads the files that it needs
    return f"{part.name}: a server, not asked" if reward_kind(part.name) == "endpoint" else None


def _check_path(path: Path, name: str, of_records: bool) -> str | None:
    from trine.catalog.locating import is_hub_data_set

    if of_records and is_hub_data_set(path):
        return f"{path}: on the Hugging Face hub, not looked up"
    if not path.exists():
        raise TrineError(f"{name}={path} does not exist")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise TrineError(f"{name}={path} cannot be read by this user")
    if name == "tokenizer":
        from trine.tokenizer.tokenizer import Tokenizer

        Tokenizer.load(path)
    return None


def _corpus_checks(corpus: CorpusConfig, earlier: Mapping[Path, StageConfig]) -> Iterator[Check]:
    """Folders are listed, unless an earlier step makes them; of what is installed it is enough that it is there."""
    for source in corpus.all_sources:
        if source.dataset is not None:
            yield partial(_check_data_set, source)
        elif source.distribution is not None:
            yield partial(_check_distribution, source.distribution)
    folders = tuple(
        source
        for source in corpus.all_sources
        if source.folder is not None and not _made_before(source.folder, earlier)
    )
    if folders or not corpus.all_sources:
        yield partial(_check_folders, CorpusConfig(sources=folders))


def _check_folders(corpus: CorpusConfig) -> None:
    from trine.data.corpus import open_corpus

    for source in open_corpus(corpus).sources:
        for file in (file for unit in source.units for file in unit.files):
            if not os.access(file, os.R_OK):
                raise TrineError(f"corpus {file} cannot be read by this user")


def _check_distribution(name: str) -> None:
    from trine.data.sources import distribution_units

    next(iter(distribution_units(name)), None)


def _check_data_set(source: SourceConfig) -> str | None:
    return None if Path(source.dataset or "").exists() else f"{source.dataset}: on the Hugging Face hub, not looked up"


def _check_hardware(hardware: HardwareConfig) -> None:
    from trine.runtime.device import choose_hardware

    choose_hardware(hardware.device, hardware.precision, hardware.threads)


def _check_tasks(config: EvaluateConfig) -> None:
    from trine.stages.evaluation.task_files import make_task, read_tasks

    for file in read_tasks(config.asked_tasks, config.data):
        make_task(file, config.seed)


def _check_environment(config: ControlConfig) -> None:
    from trine.agents.environments import make_environment

    make_environment(config.environment, config.environment_options).close()
