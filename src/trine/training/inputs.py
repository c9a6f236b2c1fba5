"""Fingerprints of what a run depends on besides its config: the content, wherever it lies and whatever made it.

Every byte is read each time (about 2 GB/s): a model that was damaged or replaced must not pass for the one that a run
began with, and sizes and dates do not tell.
"""

from collections.abc import Iterator
from pathlib import Path

from trine.catalog.locating import find_adapter, is_hub_data_set, place_model
from trine.catalog.rewards import code_fingerprint
from trine.config.registry import STAGES
from trine.config.rewards import RewardPart, RewardSum, parts_of, reward_kind
from trine.data.class_folders import is_class_folder
from trine.data.data_sets import data_set_commit
from trine.data.record_files import is_record_file
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, sha256_of, sha256_of_file
from trine.runtime.importing import import_named
from trine.runtime.source_code import source_digest
from trine.tokenizer.tokenizer import Tokenizer


def fingerprint(place: Path) -> str:
    """Of a file or folder: a run folder is known by what its stage makes for others, any other by its files."""
    place = Path(place)
    if place.is_file():
        return sha256_of_file(place)
    if not place.exists():
        raise TrineError(f"{place} does not exist; correct the path, or finish the run that writes it")
    contents = place.rglob("*.txt") if is_class_folder(place) else _contents(place)
    files = sorted((path.relative_to(place).as_posix(), path) for path in contents)
    return sha256_of(*(f"{name}:{sha256_of_file(path)}" for name, path in files))


def _contents(folder: Path) -> Iterator[Path]:
    record = folder / "run.json"
    stage = STAGES.get(str(read_json(record).get("stage"))) if record.exists() else None
    if stage is None:
        yield from (path for path in folder.iterdir() if path.is_file() and _is_content(path))
        return
    for name in stage.outputs:
        output = folder / name
        yield from [output] if output.is_file() else (path for path in output.rglob("*") if path.is_file())


def _is_content(path: Path) -> bool:
    """No hidden files and no pages about the folder: a model's card may be edited."""
    return not path.name.startswith(".") and path.suffix.lower() != ".md"


def model_fingerprint(name: Path | str) -> str:
    """Of the model that `name` stands for: the folder or file it is, or a base and the adapters in it."""
    return "+".join(fingerprint(path) for path in place_model(name).paths)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Of a tokenizer with its templates and settings, in whatever folder."""
    texts = sorted(tokenizer.files.texts.items())
    return sha256_of(*(part for pair in texts for part in pair), str(tokenizer.files.model_end_ids))


def _data_set_fingerprint(name: str) -> str:
    """Of a data set on the hub: its name and commit."""
    return sha256_of(name.partition("@")[0], data_set_commit(name))


def _records_fingerprint(name: str, place: Path) -> str:
    """Of records in a file, in a run's folder, or in all files in and below another folder."""
    if not place.is_dir() or is_class_folder(place) or (place / "run.json").exists():
        return input_fingerprint(name, place)
    files = sorted(path for path in place.rglob("*") if path.is_file() and is_record_file(path.name))
    return sha256_of(*(f"{path.relative_to(place).as_posix()}:{sha256_of_file(path)}" for path in files))


def input_fingerprint(name: str, value: Path | str | RewardSum | tuple[Path, ...]) -> str:
    """Of what the setting `name` names: paths, a model, or a reward."""
    if isinstance(value, tuple):
        return sha256_of(*(_records_fingerprint(name, each) for each in value))
    if isinstance(value, Path):
        return _data_set_fingerprint(str(value)) if is_hub_data_set(value) else fingerprint(value)
    if isinstance(value, RewardSum) or name.endswith("reward") or name == "other":
        return _reward_fingerprint(value)
    if name == "user" or (name != "adapter" and reward_kind(value) == "function"):
        function = import_named(value, name)
        return source_digest(getattr(function, "__qualname__", type(function).__qualname__), function)
    return fingerprint(find_adapter(value)) if name == "adapter" else model_fingerprint(value)


def _reward_fingerprint(reward: str | RewardSum) -> str:
    """Of a reward, or of the parts of a sum with their weights; how they are called (workers, timeout) is left out."""
    found = [_part_fingerprint(part) for part in parts_of(reward)]
    if isinstance(reward, str):
        return found[0]
    weights = [repr(part.weight) for part in reward.parts]
    later = [] if reward.combine == "sum" else [reward.combine, str(reward.biased)]
    later += [part.unit for part in reward.parts if part.unit != "log_odds"]
    return sha256_of(reward.normalize, *found, *weights, *later)


def _part_fingerprint(part: RewardPart) -> str:
    return model_fingerprint(part.name) if reward_kind(part.name) == "model" else code_fingerprint(part)
