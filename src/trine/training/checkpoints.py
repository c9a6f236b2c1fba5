"""Checkpoints that are whole or absent: safetensors for tensors, JSON for the rest, a manifest of hashes.

A checkpoint is a folder `step-00000123`, renamed into place when complete. Loading takes the newest one whose
files match their hashes; a damaged one is named, passed over and set aside as `damaged-step-00000123`. Where all are
damaged nothing is loaded and nothing begins anew: that is an error. Nothing is unpickled.

Tensors lie in the form of PyTorch's `HuggingFaceStorageWriter`: one safetensors file a process, whose header says where
each piece begins in the whole tensor. Several processes write by PyTorch's distributed planner, each what it holds; one
process writes the same form itself, without the seconds that importing the planner takes. Any number of processes,
sharded or not, read either.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trine.runtime.distributed import ALONE, World
from trine.runtime.errors import TrineError
from trine.runtime.files import aside_of, read_json, remedy, sha256_of_file, write_folder, write_json
from trine.runtime.progress import say
from trine.training.parallel import is_sharded

STATE, MANIFEST = "state.json", "manifest.json"
# What PyTorch's writer calls the file of the first process, and the key of its header.
ONLY_FILE = "shard-00001-model-00001-of-00001.safetensors"
PLACES = "DCP_SHARDING_INFO"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int, world: World = ALONE,
    *, protected: int = 0,
) -> None:  # fmt: skip
    """Write `folder`/step-..., then remove all but the newest `keep` and that of step `protected`.

    Later ones are of a run that was extended from here, and are removed too. All processes call this with the same
    `state`; what is not sharded has to be the same in all of them.
    """
    path = _place(folder, step)

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
        steps = [other for other in map(step_of, list_checkpoints(folder)) if other <= step]
        remove_checkpoints(folder, {*steps[-keep:], protected})
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
        raise TrineError(f"cannot write {aside}: {error}; {remedy(error)}") from error


def load_checkpoint(
    folder: Path,
    like: Mapping[str, Tensor] | None = None,
    world: World = ALONE,
    usable: Callable[[dict[str, Any]], bool] = lambda state: True,
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest undamaged checkpoint; None when there is none. All processes call this.

    One whose state is not `usable` is passed over, if there is another. Raises `TrineError` where all are damaged.
    Tensors are whole and on the CPU, unless `like` has a sharded one under their name or what is before its last `/`:
    then only this process's part is read.
    """
    with world.main_first(f"checkpoint in {folder}"):
        newest = _newest(folder, usable) if world.is_main else None
    step = world.all_reduce_max({"step": float(-1 if newest is None else newest)})["step"]
    if step < 0:
        return None
    path = _place(folder, int(step))
    files = sorted(path.glob("*.safetensors"))
    sharded = {name: tensor for name, tensor in (like or {}).items() if is_sharded(tensor)}
    tensors = load_file(files[0]) if len(files) == 1 and not sharded else _read_parts(path, sharded)
    return tensors, read_json(path / STATE)


def check_checkpoints(folder: Path) -> None:
    """Raises `TrineError` where there are checkpoints and all are damaged."""
    problems = {path: _damage(path) for path in list_checkpoints(folder)}
    if problems and all(problems.values()):
        raise _all_damaged(folder, problems)


def _newest(folder: Path, usable: Callable[[dict[str, Any]], bool]) -> int | None:
    """Step of the newest undamaged checkpoint, of the usable ones if there are any; those after it set aside."""
    problems: dict[Path, str | None] = {}
    whole: list[int] = []
    for path in reversed(list_checkpoints(folder)):
        problems[path] = _damage(path)
        if problems[path] is None:
            whole.append(step_of(path))
            if usable(read_json(path / STATE)):
                break
    damaged = {path: problem for path, problem in problems.items() if problem is not None}
    if damaged and not whole:
        raise _all_damaged(folder, damaged)
    for path, problem in damaged.items():
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)  # it must not count among the checkpoints to keep
        say(f"checkpoint {path} is damaged ({problem}) and was set aside as {aside.name}", style="yellow")
    if damaged:
        lost = max(map(step_of, damaged)) - whole[0]
        say(f"falling back to the checkpoint of step {whole[0]}: {lost} steps are trained again", style="yellow")
    usable_found = whole and usable(read_json(_place(folder, whole[-1]) / STATE))
    return (whole[-1] if usable_found else whole[0]) if whole else None


def _all_damaged(folder: Path, problems: Mapping[Path, str | None]) -> TrineError:
    found = "".join(f"\n  {path.name}: {problem}" for path, problem in sorted(problems.items()))
    return TrineError(
        f"all checkpoints in {folder} are damaged, and nothing was changed:{found}\nRestore one from a copy, or give "
        f"another --out; to train again from step 0 here, move {folder} elsewhere"
    )


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("step-"))


def remove_checkpoints(folder: Path, kept: Set[int], *, set_aside: bool = False) -> None:
    """Remove all checkpoints but those of the steps `kept`, and the damaged ones that were set aside if asked."""
    for path in list_checkpoints(folder):
        if step_of(path) not in kept:
            shutil.rmtree(path)
    for path in folder.glob("damaged-step-*") if set_aside else ():
        shutil.rmtree(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
