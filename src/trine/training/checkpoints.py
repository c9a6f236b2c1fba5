"""Checkpoints that are whole or absent: safetensors for tensors, JSON for the rest, a manifest of hashes.

A checkpoint is a folder `step-00000123`, renamed into place when complete. Loading takes the newest one whose
files match their hashes; a damaged one is named and passed over. Nothing is unpickled.

Tensors lie in the form of PyTorch's `HuggingFaceStorageWriter`: one safetensors file a process, whose header says where
each piece begins in the whole tensor. Several processes write by PyTorch's distributed planner, each what it holds; one
process writes the same form itself, without the seconds that importing the planner takes. Any number of processes,
sharded or not, read either.
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trine.runtime.distributed import ALONE, World
from trine.runtime.errors import TrineError
from trine.runtime.files import aside_of, read_json, sha256_of_file, write_folder, write_json
from trine.runtime.progress import say
from trine.training.parallel import is_sharded

STATE, MANIFEST = "state.json", "manifest.json"
# What PyTorch's writer calls the file of the first process, and the key of its header.
ONLY_FILE = "shard-00001-model-00001-of-00001.safetensors"
PLACES = "DCP_SHARDING_INFO"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int, world: World = ALONE
) -> None:
    """Write `folder`/step-..., then remove all but the newest `keep`. All processes call this with the same `state`.

    What is not sharded has to be the same in all of them.
    """
    path = folder / f"step-{step:08d}"

    def fill(aside: Path) -> None:
        write_json(aside / STATE, state | {"step": step})
        if world.size == 1:
            _write_alone(aside / ONLY_FILE, tensors)
        else:
            world.barrier()  # the folder is there
            _write_together(aside, tensors)
        write_json(aside / MANIFEST, {file.name: sha256_of_file(file) for file in sorted(aside.iterdir())})

    if world.is_main:
        write_folder(path, fill)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    else:
        world.barrier()
        _write_together(aside_of(path), tensors)
    world.barrier()  # nobody goes on, or leaves, before it is in place


def _write_alone(file: Path, tensors: dict[str, Tensor]) -> None:
    places = {name: {"saved_offsets": [0] * tensor.dim()} for name, tensor in tensors.items()}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, file, {PLACES: json.dumps(places)})


def _write_together(aside: Path, tensors: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    held = {name: tensor.detach() for name, tensor in tensors.items()}
    try:
        save(held, storage_writer=HuggingFaceStorageWriter(str(aside), save_distributed=True))
    except CheckpointException as error:
        raise TrineError(f"cannot write {aside}: {error}; free some space or choose --out") from error


def load_checkpoint(
    folder: Path, like: Mapping[str, Tensor] | None = None, world: World = ALONE
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest undamaged checkpoint; None when there is none. All processes call this.

    Tensors are whole and on the CPU, unless `like` has a sharded one under their name or what is before its last `/`:
    then only this process's part is read.
    """
    step = world.all_reduce_max({"step": float(_newest(folder) if world.is_main else -1)})["step"]
    if step < 0:
        return None
    path = folder / f"step-{int(step):08d}"
    files = sorted(path.glob("*.safetensors"))
    sharded = {name: tensor for name, tensor in (like or {}).items() if is_sharded(tensor)}
    tensors = load_file(files[0]) if len(files) == 1 and not sharded else _read_parts(path, sharded)
    return tensors, read_json(path / STATE)


def _newest(folder: Path) -> int:
    """Step of the newest undamaged checkpoint, those after it removed; -1 when there is none."""
    checkpoints = list_checkpoints(folder)
    for index in reversed(range(len(checkpoints))):
        problem = _damage(checkpoints[index])
        if problem is None:
            for newer in checkpoints[index + 1 :]:
                shutil.rmtree(newer)  # damaged: it must not count among the checkpoints to keep
            return int(read_json(checkpoints[index] / STATE)["step"])
        say(f"checkpoint {checkpoints[index]} is damaged ({problem}); falling back to the one before", style="yellow")
    return -1


def _read_parts(path: Path, sharded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor put together from the pieces of several files; of a sharded one, only what this process holds."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    wanted: dict[str, Tensor] = {}
    for name, described in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(described, TensorStorageMetadata)
        pattern = sharded.get(name, sharded.get(name.rpartition("/")[0]))
        if pattern is not None and pattern.shape == described.size:
            wanted[name] = torch.empty_like(pattern, requires_grad=False)
        else:
            wanted[name] = torch.empty(described.size, dtype=described.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each process reads by itself
        load(wanted, storage_reader=reader, no_dist=True)
    return wanted


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint: a file that is missing, changed or of no checkpoint's."""
    try:
        manifest = read_json(path / MANIFEST)
        if not {STATE} < manifest.keys():
            return f"{MANIFEST} does not name its files"
        for name, digest in manifest.items():
            if sha256_of_file(path / name) != digest:
                return f"{name} does not match its hash"
        unknown = {file.name for file in path.glob("*.safetensors")} - manifest.keys()
    except (TrineError, OSError, AttributeError, TypeError) as error:
        return str(error)
    return f"{sorted(unknown)} are not of it" if unknown else None


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Every state tensor of an optimizer under `prefix`/parameter index/name; plain numbers become tensors."""
    return {
        f"{prefix}/{index}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def optimizer_parameters(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Each parameter of an optimizer under `prefix`/index, what `optimizer_tensors` calls it."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return {f"{prefix}/{index}": parameter for index, parameter in enumerate(parameters)}


def restore_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; learning rates come from the schedule, not from here."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}/"):
            index, name = key.removeprefix(f"{prefix}/").split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
