"""Parsing and validation of safetensors headers, before any tensor is allocated or read.

The format (github.com/huggingface/safetensors): eight bytes of header length N, little-endian; N bytes of JSON, name ->
{dtype, shape, data_offsets}; then the tensors' bytes. Invariant of what `read_header` returns: every tensor lies
inside the file, its size matches shape and dtype, and the tensors cover the data without gap or overlap. A damaged or
malicious file is therefore refused here, with the names of file and tensor.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from trine.runtime.errors import TrineError
from trine.runtime.json_object import parse_json_object
from trine.runtime.mistaken import FIRST_BYTES, refuse_mistaken

MAX_HEADER = 100_000_000  # the limit of the safetensors library
MAX_RANK = 16
# Bytes per value of the dtypes of the format; Trine reads those in _READ.
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
_READ = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class TensorPlace:
    """The location of a tensor: `length` bytes from byte `start` of the file `path`."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int

    def require_floats(self) -> None:
        """Raise `TrineError` unless the dtype is one that weights may have."""
        if self.dtype not in _READ:
            raise TrineError(
                f"{self.path}: tensor {self.name} has dtype {self.dtype}; Trine reads {', '.join(_READ)}: "
                "use unquantised weights, or convert them"
            )

    def read(self) -> Tensor:
        """The tensor as fp32, copied from the file (not mapped), so that later changes of the file have no effect."""
        self.require_floats()
        tensor = torch.empty(self.shape, dtype=_READ[self.dtype])
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                count = file.readinto(tensor.view(-1).view(torch.uint8).numpy().data) if self.length else 0
        except OSError as error:
            raise TrineError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if count != self.length:
            raise TrineError(f"{self.path}: the file ends inside tensor {self.name}; it changed while it was read")
        return tensor.float()


def read_header(path: Path) -> dict[str, TensorPlace]:
    """The location of every tensor of the safetensors file `path`, by name; raises `TrineError` if it is damaged."""
    if not path.is_file():
        raise TrineError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                file.seek(0)
                refuse_mistaken(path, file.read(FIRST_BYTES))
            if size < 8 or length > size - 8:
                _damaged(path, f"its header should have {length} bytes, the file has {size}")
            if length > MAX_HEADER:
                _damaged(path, f"its header has {length} bytes, the format allows {MAX_HEADER}")
            header = parse_json_object(file.read(length), f"the header of {path}")
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None
    header.pop("__metadata__", None)
    places = {name: _place(path, name, entry, 8 + length) for name, entry in header.items()}
    _require_exact_cover(path, list(places.values()), 8 + length, size)
    return places


def _place(path: Path, name: str, entry: Any, data_start: int) -> TensorPlace:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _damaged(path, f"tensor {name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise TrineError(f"{path}: tensor {name} has dtype {dtype!r}; Trine reads {', '.join(_READ)}")
    if not _are_counts(shape) or len(shape) > MAX_RANK:
        _damaged(path, f"tensor {name} has the shape {str(shape)[:100]}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _damaged(path, f"tensor {name} has the offsets {str(offsets)[:100]}")
    length = math.prod(shape) * _BYTES[dtype]
    if offsets[1] - offsets[0] != length:
        _damaged(path, f"tensor {name} of shape {shape} and dtype {dtype} has {offsets[1] - offsets[0]} bytes")
    return TensorPlace(path, name, dtype, tuple(shape), data_start + offsets[0], length)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _require_exact_cover(path: Path, places: list[TensorPlace], data_start: int, size: int) -> None:
    end = data_start
    for place in sorted(places, key=lambda place: (place.start, place.length)):
        if place.start < end:
            _damaged(path, f"tensor {place.name} overlaps the one before it")
        if place.start > end:
            _damaged(path, f"nothing describes the {place.start - end} bytes before tensor {place.name}")
        end = place.start + place.length
        if end > size:
            _damaged(path, f"tensor {place.name} ends at byte {end}, the file at {size}")
    if end != size:
        _damaged(path, f"its tensors end at byte {end}, the file at {size}")


def _damaged(path: Path, reason: str) -> NoReturn:
    raise TrineError(f"{path} is damaged: {reason}; download or create it again")
