"""A finished model to the Hugging Face hub, through `huggingface_hub`: the files of its folder and a model card.

Nothing else of a run goes there, no checkpoints and no data. The token is what `huggingface_hub` finds: HF_TOKEN, or
what `hf auth login` left. The repository is made when it does not exist; all files go in one commit.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from trine.catalog.locating import find_model, is_adapter
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.runtime.progress import say

PUBLISHED = ("*.json", "*.jinja", "*.safetensors")
CARD = "README.md"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check_publishing(repository: str) -> None:
    """What can be known before a run of days: `TrineError` when the name has no owner or nobody is logged in."""
    if not _REPOSITORY.fullmatch(repository):
        raise TrineError(f"{repository!r} is no name on the hub; name the owner too, as in owner/name")
    from huggingface_hub import get_token

    if get_token() is None:
        raise TrineError(f"nobody is logged in to push {repository}: run `hf auth login`, or set HF_TOKEN")


def push_model(name: Path, repository: str, *, private: bool = False) -> str:
    """Upload the model in run or model folder `name`; returns the address of its page.

    Raises `TrineError`, saying how to repeat it, when the hub refuses or cannot be reached: the folder is untouched.
    """
    check_publishing(repository)
    if not Path(name).is_dir():
        raise TrineError(f"{name} is no folder here; name a run or model folder")
    folder = find_model(name)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        page = str(api.create_repo(repository, private=private, exist_ok=True))
        api.create_commit(repository, _files(folder, Path(name)), commit_message="Upload a model trained with Trine")
    except HfHubHTTPError as error:
        reason = _refusal(error)
    except Exception as error:  # a connection's errors have classes of their own in every HTTP client
        reason = f"the upload failed, is there a connection? ({type(error).__name__}: {error})"
    else:
        say(f"push: done, at {page}")
        return page
    raise TrineError(
        f"{repository} was not pushed: {reason}; the model is safe in {folder}, and this uploads it: "
        f"trine push {name} {repository}{' --private true' if private else ''}"
    )


def _refusal(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    words = str(getattr(error, "server_message", None) or error).strip().splitlines()[0]
    if status == 401:
        return f"the hub does not know the token ({words}); log in again with `hf auth login`"
    if status == 403:
        return f"the token may not write there ({words}); make one with write access, and check the owner's name"
    return f"the hub answers {status}: {words}"


def _files(folder: Path, name: Path) -> list[Any]:
    """The files of the folder, and a card unless it brings its own."""
    from huggingface_hub import CommitOperationAdd

    paths = sorted(path for pattern in (*PUBLISHED, CARD) for path in folder.glob(pattern))
    added = [CommitOperationAdd(path.name, path) for path in paths]
    if not (folder / CARD).exists():
        added.append(CommitOperationAdd(CARD, model_card(folder, name).encode()))
    return added


def model_card(folder: Path, run: Path) -> str:
    """README.md of the repository: what the run folder says of the model. Its licence is its owner's to state."""
    facts = _facts(folder, run)
    table = "".join(f"| {label} | {value} |\n" for label, value in facts.items())
    header = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["trine"]}
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {run.resolve().name}\n\n"
        "A language model trained with Trine. It opens in `transformers`, and in Trine by `trine generate`.\n\n"
        f"| | |\n|---|---|\n{table}\n"
        "Bits per byte: what the model spends on held-out text, lower is better.\n\n"
        "Licence: not stated. Whoever publishes the model decides, with the licences of its training text in mind, and "
        "adds `license:` to the header of this card.\n"
    )


def _facts(folder: Path, run: Path) -> dict[str, str]:
    if is_adapter(folder):
        facts = {"LoRA adapter of": str(read_json(folder / "adapter_config.json").get("base_model_name_or_path"))}
    else:
        shape = read_json(folder / "config.json")
        facts = {"architecture": ", ".join(shape.get("architectures") or ["unknown"])}
    done = read_json(run / "done.json") if (run / "done.json").exists() else {}
    for key in ("parameters", "tokens"):
        if key in done:
            facts[key if key == "parameters" else "tokens read"] = f"{done[key]:,}"
    for key, value in done.items():
        part = key.removeprefix("bits_per_byte/")
        if part != key:
            facts[f"bits per byte, {part.replace('_', ' ')}"] = f"{value:.3f}"
    if "corpus" in done:
        facts["trained on"] = str(done["corpus"])
    return facts | _recipe(run)


def _recipe(run: Path) -> dict[str, str]:
    """The recipe the run was part of, and the settings of its training."""
    record, config = run.parent / "recipe.json", run / "config.yaml"
    facts = {"recipe": str(read_json(record).get("recipe"))} if record.exists() else {}
    if config.exists():
        values = yaml.safe_load(config.read_text("utf-8"))
        names = ("row_tokens", "batch_size", "seed")
        named = [f"{name} {values[name]}" for name in names if name in values]
        optimizer = values.get("optimizer") or {}
        named += [
            f"{name} {optimizer[name]}" for name in ("kind", "learning_rate", "weight_decay") if name in optimizer
        ]
        facts["settings"] = ", ".join(named)
    return facts
