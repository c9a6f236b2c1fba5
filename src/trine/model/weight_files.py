"""The tensors of a model folder: one `model.safetensors`, or shards with `model.safetensors.index.json`.

Headers are checked when a folder is opened (`safetensors_header.py`); each tensor is read when it is accessed, so
loading a model takes little more memory than the model itself. Pickled `pytorch_model.bin` files are never opened.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from trine.model.safetensors_header import TensorPlace, read_header
from trine.runtime.errors import TrineError
from trine.runtime.files import disk_errors, write_json
from trine.runtime.json_object import read_json_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD = 5_000_000_000
StoredDtype = Literal["float32", "bfloat16", "float16"]
_PICKLED = ("pytorch_model*.bin", "model*.bin", "model*.pt", "model*.pth", "*.ckpt", "consolidated*.pth")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WeightFiles(Mapping[str, Tensor]):
    """A mapping of tensor names to tensors, read from disk as fp32 at every access."""

    def __init__(self, places: dict[str, TensorPlace]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> Tensor:
        return self.places[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:  # that of Mapping would read the tensor
        return name in self.places


def open_weights(folder: Path) -> WeightFiles:
    """Open the weights in `folder`, reading only headers.

    Raises `TrineError` naming file and tensor if one is missing or damaged, or contradicts the index.
    """
    folder = Path(folder)
    if (folder / SINGLE).exists():
        return WeightFiles(read_header(folder / SINGLE))
    if (folder / INDEX).exists():
        return WeightFiles(_read_shards(folder))
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if shards:
        return WeightFiles(_read_without_index(folder, shards))
    raise TrineError(_what_is_there(folder))


def holds_weights(folder: Path) -> bool:
    """Whether `folder` holds a model's weights, in whatever form."""
    return any(True for pattern in (*_PICKLED, "model*.safetensors") for _ in Path(folder).glob(pattern))


def _what_is_there(folder: Path) -> str:
    """What to say of a folder without weights that Trine reads."""
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        return (
            f"{folder} holds its weights as {pickled[0]}, a pickle, which can run any code and is never opened; "
            f"use a safetensors version, or, if you trust the file, {how_to_convert(str(folder))}"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"; rename {others[0]} to {SINGLE} if that is it" if len(others) == 1 else ""
    found = f"; there are {', '.join(others[:5])}" if len(others) > 1 else found
    return f"{folder / SINGLE} does not exist, and neither does {INDEX}; a model folder has one of them{found}"


def how_to_convert(name: str) -> str:
    """What to type to get safetensors of a model that is stored as a pickle."""
    return (
        'convert it with save_pretrained of transformers: python -c "from transformers import AutoModelForCausalLM as M'
        f"; M.from_pretrained('{name}').save_pretrained('converted')\", and copy the tokenizer's files beside"
    )


def _read_without_index(folder: Path, shards: list[str]) -> dict[str, TensorPlace]:
    """Shards without their index: enough where all are there, by the count in their names."""
    total = shards[0].removesuffix(".safetensors").rsplit("-", 1)[-1]
    if shards != [f"model-{number:05}-of-{total}.safetensors" for number in range(1, len(shards) + 1)] or not (
        total.isdecimal() and int(total) == len(shards)
    ):
        raise TrineError(
            f"{folder} holds {len(shards)} of the {total} shards that {shards[0]} speaks of, and no {INDEX}; "
            "download the others, and the index"
        )
    places: dict[str, TensorPlace] = {}
    for shard in shards:
        for name, place in read_header(folder / shard).items():
            if name in places:
                raise TrineError(f"{folder / shard}: tensor {name} is in {places[name].path.name} too")
            places[name] = place
    return places


def _read_shards(folder: Path) -> dict[str, TensorPlace]:
    index = folder / INDEX
    files = _weight_map(index)
    shards = sorted(set(files.values()))
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise TrineError(f"{folder} is missing {len(missing)} of its {len(shards)} shards: {', '.join(missing[:5])}")
    headers = {shard: read_header(folder / shard) for shard in shards}
    for name, shard in files.items():
        if name not in headers[shard]:
            raise TrineError(f"{index} says that tensor {name} is in {shard}, which does not hold it")
    return {name: headers[shard][name] for name, shard in files.items()}


def _weight_map(index: Path) -> dict[str, str]:
    files = read_json_object(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise TrineError(f"{index} has no weight_map of tensor names to file names")
    for name, file in files.items():
        if not _is_plain_file_name(file):
            raise TrineError(
                f"{index} puts tensor {name} into {file!r}; it may name only .safetensors files in the same folder"
            )
    return files


def _is_plain_file_name(file: Any) -> bool:
    return isinstance(file, str) and file.endswith(".safetensors") and not set(file) & set("/\\:\0")


def write_weights(folder: Path, weights: dict[str, Tensor], dtype: StoredDtype, max_shard_bytes: int) -> None:
    """Write `weights` into an existing `folder`, replacing existing ones; in shards of up to `max_shard_bytes`.

    Raises `TrineError` naming the tensor if a value is too large for `dtype`, or the path if writing fails.
    """
    shards = _split_into_shards(weights, _DTYPES[dtype].itemsize, max_shard_bytes)
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [SINGLE]
    with disk_errors(folder):
        for old in (SINGLE, INDEX, *(path.name for path in folder.glob("model-*-of-*.safetensors"))):
            (folder / old).unlink(missing_ok=True)
        for file, shard in zip(names, shards, strict=True):
            tensors = {name: _stored(name, weights[name], dtype) for name in shard}
            save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        files = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(tensor.numel() for tensor in weights.values()) * _DTYPES[dtype].itemsize
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})


def _split_into_shards(weights: dict[str, Tensor], bytes_per_value: int, max_shard_bytes: int) -> list[list[str]]:
    """Tensor names by shard, in order; a tensor is never split."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in weights.items():
        size = tensor.numel() * bytes_per_value
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _stored(name: str, tensor: Tensor, dtype: StoredDtype) -> Tensor:
    stored = tensor.detach().cpu().to(_DTYPES[dtype]).contiguous()
    if dtype != "float32" and not torch.equal(stored.isfinite(), tensor.detach().cpu().isfinite()):
        raise TrineError(f"tensor {name} has values too large for {dtype}; store the model as float32")
    return stored
