"""Checkpoints that are whole or absent: safetensors for tensors, JSON for the rest, a manifest of hashes.

A checkpoint is a folder `step-00000123`, renamed into place when complete. Loading takes the newest one whose
files match their hashes; a damaged one is named and passed over. Nothing is unpickled.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, sha256_of_file, write_folder, write_json
from trine.runtime.progress import say

FILES = ("tensors.safetensors", "state.json")


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int) -> None:
    """Write `folder`/step-..., then remove all but the newest `keep`."""

    def fill(aside: Path) -> None:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, aside / FILES[0])
        write_json(aside / FILES[1], state | {"step": step})
        write_json(aside / "manifest.json", {name: sha256_of_file(aside / name) for name in FILES})

    write_folder(folder / f"step-{step:08d}", fill)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest undamaged checkpoint; None when there is none."""
    for path in reversed(list_checkpoints(folder)):
        problem = _damage(path)
        if problem is None:
            for newer in list_checkpoints(folder)[list_checkpoints(folder).index(path) + 1 :]:
                shutil.rmtree(newer)  # damaged: it must not count among the checkpoints to keep
            return load_file(path / FILES[0]), read_json(path / FILES[1])
        say(f"checkpoint {path} is damaged ({problem}); falling back to the one before", style="yellow")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def _damage(path: Path) -> str | None:
    try:
        manifest = read_json(path / "manifest.json")
        for name in FILES:
            if sha256_of_file(path / name) != manifest.get(name):
                return f"{name} does not match its hash"
    except (TrineError, OSError, AttributeError) as error:
        return str(error)
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Every state tensor of an optimizer under `prefix`/parameter index/name; plain numbers become tensors."""
    return {
        f"{prefix}/{index}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; learning rates come from the schedule, not from here."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}/"):
            index, name = key.removeprefix(f"{prefix}/").split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
