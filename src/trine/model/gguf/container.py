"""The GGUF container: a header of typed metadata and tensor descriptions, then the tensors' bytes.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian. Headers
are untrusted, so every count, length and offset is checked against the size of the file before memory is allocated for
it; errors name file and field. Tensors are read one at a time.
"""

import math
import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from trine.runtime.errors import TrineError
from trine.runtime.mistaken import FIRST_BYTES, mistaken_for, refuse_mistaken

_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_MAX_KEY_BYTES = 65535
# struct formats of value types by number; strings and arrays are read separately.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MIN_PAIR = 8 + 1 + 4 + 1  # key length, a character, value type, a byte
_MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8  # name length, a character, dimension count, one dimension, type, offset


@dataclass(frozen=True)
class TensorInfo:
    """The location of a tensor. `shape` is in PyTorch's order, rows first (the file has the reverse order)."""

    path: Path
    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    """bytes from the start of the file"""
    size: int
    """bytes"""


@dataclass(frozen=True)
class Container:
    """A validated header: `metadata` by key, `tensors` by name (of all parts, where a model is split into files)."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def without(self, ignored: Collection[str]) -> "Container":
        """The same file without the metadata keys `ignored`."""
        return replace(self, metadata={key: value for key, value in self.metadata.items() if key not in ignored})

    def refuse(self, field: str, reason: str) -> NoReturn:
        """Raise a `TrineError` that names the file and the field."""
        raise TrineError(f"{self.path}: {field} {reason}")

    def read(self, name: str) -> NDArray[np.float32]:
        """The values of one tensor as fp32; raises `TrineError` if its type is one that holds no weights."""
        info = self.tensors[name]
        with open(info.path, "rb") as file:
            file.seek(info.offset)
            data = np.fromfile(file, np.uint8, info.size)
        if data.size != info.size:
            self.refuse(f"tensor {name}", "is truncated; download the file again")
        if info.type == GGMLQuantizationType.F64:
            return data.view(np.float64).astype(np.float32).reshape(info.shape)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused with the tensor's name
                return dequantize(data.reshape(*info.shape[:-1], -1), info.type).reshape(info.shape)
        except NotImplementedError:
            self.refuse(f"tensor {name}", f"is stored as {info.type.name}, which the gguf package cannot dequantise")


def read_container(path: Path) -> Container:
    """Read and check the header of the GGUF file `path`; raises `TrineError` naming the file and the field."""
    path = Path(path)
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except ValueError:  # an empty file cannot be mapped
        raise TrineError(f"{path} {mistaken_for(b'')}") from None
    except OSError as error:
        raise TrineError(f"{path} is not a readable GGUF file: {error}") from None


class _Header:
    """A parser of the header; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 0

    def read(self) -> Container:
        tensor_count, pair_count = self._read_counts()
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._string("a metadata key", max_bytes=_MAX_KEY_BYTES)
            if key in metadata:
                self._refuse(f"metadata key {key!r}", "appears twice")
            metadata[key] = self._value(self._number("I", key), key)
        alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            self._refuse("general.alignment", f"is {alignment!r}; it must be a power of two and at least 8")
        infos = [self._tensor(index, alignment) for index in range(tensor_count)]
        start = -(-self.position // alignment) * alignment
        return Container(self.path, metadata, self._placed(infos, start))

    def _read_counts(self) -> tuple[int, int]:
        if self.data[:4] != b"GGUF":
            refuse_mistaken(self.path, self.data[:FIRST_BYTES])
            self._refuse("magic", f"is {self.data[:4]!r}, not b'GGUF'; this is not a GGUF file")
        self.position = 4
        version = self._number("I", "version")
        if version not in _VERSIONS:
            hint = " (a big-endian file)" if version & 0xFFFF == 0 else ""
            self._refuse("version", f"is {version}{hint}; Trine reads {_VERSIONS[0]} and {_VERSIONS[1]}, little-endian")
        tensor_count, pair_count = self._number("Q", "tensor count"), self._number("Q", "metadata count")
        self._room_for(tensor_count, _MIN_TENSOR, "tensor count")
        self._room_for(pair_count, _MIN_PAIR, "metadata count")
        return tensor_count, pair_count

    def _tensor(self, index: int, alignment: int) -> TensorInfo:
        """Read one description; its `offset` is still relative to the start of the tensor data."""
        name = self._string(f"name of tensor {index}", max_bytes=_MAX_KEY_BYTES)
        field = f"tensor {name!r}"
        dimensions = self._number("I", field)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            self._refuse(field, f"has {dimensions} dimensions; it must have 1 to {_MAX_DIMENSIONS}")
        shape = tuple(self._number("Q", field) for _ in range(dimensions))[::-1]
        number, offset = self._number("I", field), self._number("Q", field)
        if number not in GGMLQuantizationType.__members__.values():
            self._refuse(field, f"has the unknown type {number}")
        kind = GGMLQuantizationType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or math.prod(shape) >= 2**63:
            self._refuse(field, f"has the impossible shape {shape}")
        if shape[-1] % block:
            self._refuse(field, f"has rows of {shape[-1]} values; {kind.name} stores multiples of {block}")
        if offset % alignment:
            self._refuse(field, f"has offset {offset}, which is not a multiple of general.alignment={alignment}")
        return TensorInfo(self.path, name, shape, kind, offset, math.prod(shape) // block * block_bytes)

    def _placed(self, infos: list[TensorInfo], start: int) -> dict[str, TensorInfo]:
        """The tensors by name, with absolute offsets; checks that they lie inside the file and do not overlap."""
        tensors: dict[str, TensorInfo] = {}
        end, before = start, ""
        for info in sorted(infos, key=lambda info: info.offset):
            offset = start + info.offset
            if info.name in tensors:
                self._refuse(f"tensor {info.name!r}", "appears twice")
            if offset < end:
                self._refuse(f"tensor {info.name!r}", f"overlaps {before!r}")
            end, before = offset + info.size, info.name
            if end > len(self.data):
                self._refuse(
                    f"tensor {info.name!r}", f"ends at byte {end}, beyond the file's {len(self.data)}; it is truncated"
                )
            tensors[info.name] = replace(info, offset=offset)
        return tensors

    def _value(self, kind: int, field: str) -> Any:
        if kind == _STRING:
            return self._string(field)
        if kind == _ARRAY:
            return self._array(field)
        if kind not in _SCALARS:
            self._refuse(field, f"has the unknown value type {kind}")
        value = self._number(_SCALARS[kind], field)
        return self._bool(value, field) if kind == _BOOL else value

    def _array(self, field: str) -> list[Any]:
        kind, length = self._number("I", field), self._number("Q", field)
        if kind == _STRING:
            self._room_for(length, 8, field)
            return [self._string(f"{field}[{index}]") for index in range(length)]
        if kind not in _SCALARS:
            self._refuse(field, f"is an array of value type {kind}, which is not supported")
        size = struct.calcsize("<" + _SCALARS[kind])
        self._room_for(length, size, field)
        values = list(struct.unpack_from(f"<{length}{_SCALARS[kind]}", self.data, self.position))
        self.position += length * size
        return [self._bool(value, field) for value in values] if kind == _BOOL else values

    def _bool(self, value: int, field: str) -> bool:
        if value not in (0, 1):
            self._refuse(field, f"is a boolean of value {value}; it must be 0 or 1")
        return bool(value)

    def _string(self, field: str, max_bytes: int | None = None) -> str:
        length = self._number("Q", field)
        if max_bytes is not None and not 0 < length <= max_bytes:
            self._refuse(field, f"is {length} bytes long; it must be 1 to {max_bytes}")
        self._room_for(length, 1, field)
        data = self.data[self.position : self.position + length]
        self.position += length
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self._refuse(field, f"is not UTF-8: {error.reason} at its byte {error.start}")

    def _number(self, form: str, field: str) -> Any:
        size = struct.calcsize("<" + form)
        self._room_for(1, size, field)
        (value,) = struct.unpack_from("<" + form, self.data, self.position)
        self.position += size
        return value

    def _room_for(self, count: int, size: int, field: str) -> None:
        left = len(self.data) - self.position
        if count * size > left:
            self._refuse(field, f"needs {count * size} bytes at byte {self.position}, {left} are left; it is damaged")

    def _refuse(self, field: str, reason: str) -> NoReturn:
        raise TrineError(f"{self.path}: {field} {reason}")
