"""Models from the Hugging Face hub, through `huggingface_hub` and its own cache; nothing that would be unpickled.

Of a repository only the files that Trine reads are fetched: JSON, chat template and safetensors, or one GGUF model
where there are no safetensors. Without a connection the cache answers.
"""

from pathlib import Path
from typing import Any

from trine.model.gguf.parts import one_model, part_names
from trine.model.weight_files import how_to_convert
from trine.runtime.errors import TrineError

_FOLDER_FILES = ["*.json", "*.jinja", "*.safetensors"]
_INNER_FOLDERS = "*/*"


def download(name: str) -> Path:
    """The local folder of `owner/name`, or the local file of `owner/name/file.gguf`.

    Raises `TrineError` when the hub does not have it, does not let one have it, or cannot be reached and the cache
    does not hold it.
    """
    owner, repository, *file = name.split("/")
    repository = f"{owner}/{repository}"
    if file:
        return _file(repository, file[0])
    folder = _fetched(repository, _FOLDER_FILES)
    configs = ("config.json", "adapter_config.json")
    if any((folder / config).exists() for config in configs) and any(folder.glob("*.safetensors")):
        return folder
    packed = _gguf_files(repository) or sorted(path.name for path in folder.glob("*.gguf"))
    if not packed:
        raise TrineError(
            f"{repository} has neither safetensors nor GGUF; Trine opens nothing that must be unpickled; if you trust "
            f"it, {how_to_convert(repository)}"
        )
    whole = one_model(packed)
    if whole is None:
        raise TrineError(f"{repository} has several GGUF files; name one, as in {repository}/{packed[0]}: {packed}")
    return _file(repository, whole)


def _file(repository: str, file: str) -> Path:
    path = _fetched(repository, part_names(file)) / file
    if not path.exists():
        raise TrineError(f"{repository} has no file {file}; it has {_gguf_files(repository) or 'no GGUF file'}")
    return path


def _gguf_files(repository: str) -> list[str]:
    """Names of the repository's GGUF files, none when the hub cannot be reached."""
    from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError

    try:
        return sorted(info.filename for info in _snapshot(repository, allow_patterns=["*.gguf"], dry_run=True))
    except (DryRunError, LocalEntryNotFoundError):
        return []


def _fetched(repository: str, patterns: list[str]) -> Path:
    """The cache's folder with the files of `patterns`, as words where that fails."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(_snapshot(repository, allow_patterns=patterns))
    except GatedRepoError:
        reason = "is gated: accept its terms on its page, then log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = "is no path here, and the hub has no such model (if it is private: `hf auth login`)"
    except LocalEntryNotFoundError:
        reason = (
            "is no path here, the hub cannot be reached, and its cache does not hold the model; check the name, or "
            "connect and run the same command again"
        )
    except HFValidationError as error:
        reason = f"is neither a path here nor a name the hub could have: {error}"
    except OSError as error:
        reason = f"could not be downloaded: {error}; the same command continues it"
    raise TrineError(f"{repository} {reason}")


def _snapshot(repository: str, **options: Any) -> Any:
    from huggingface_hub import snapshot_download

    return snapshot_download(repository, ignore_patterns=_INNER_FOLDERS, **options)
