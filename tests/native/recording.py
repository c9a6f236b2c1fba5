"""Calls of a library of kernels as a file for replay.cpp: memory before, arguments, and what memory holds after."""

import ctypes
import struct
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

KINDS = {"torch.float32": "float32", "torch.bfloat16": "bfloat16", "torch.float64": "float64", "torch.int64": "int64"}


@dataclass(frozen=True)
class Check:
    """After a call: what a block holds from `offset` on, to `bound` times its largest value."""

    block: int
    offset: int
    expected: Tensor
    bound: float


@dataclass
class Recording:
    """Blocks, pointers and calls in the order they were added."""

    blocks: list[bytes] = field(default_factory=list)
    pointers: list[tuple[int, int, int, int]] = field(default_factory=list)
    calls: list[bytes] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    """Address, size and number of what is memory here and a block there; the latest first, since memory is reused."""

    def add(self, content: bytes) -> int:
        self.blocks.append(content)
        return len(self.blocks) - 1

    def memory(self, tensor: Tensor) -> int:
        """A block for the memory of `tensor`, with what it holds now."""
        number = self.add(bytes_of(tensor))
        self.places.insert(0, (tensor.data_ptr(), tensor.numel() * tensor.itemsize, number))
        return number

    def record(self, content: ctypes.Structure | ctypes.Array[ctypes.Structure]) -> int:
        """A block for a structure, or several, whose pointers lead to blocks that are there already."""
        number = self.add(bytes(content))
        items = list(content) if isinstance(content, ctypes.Array) else [content]
        for index, item in enumerate(items):
            self._point(number, index * ctypes.sizeof(item), item)
        self.places.insert(0, (ctypes.addressof(content), ctypes.sizeof(content), number))
        return number

    def _point(self, number: int, at: int, item: ctypes.Structure) -> None:
        for name, kind, *_ in item._fields_:
            value, offset = getattr(item, name), at + getattr(type(item), name).offset
            if isinstance(value, ctypes.Structure):
                self._point(number, offset, value)
            elif kind is ctypes.c_void_p and value:
                self.pointers.append((number, offset, *self.place_of(value)))
            elif hasattr(value, "contents") and value:
                self.pointers.append((number, offset, *self.place_of(ctypes.addressof(value.contents))))

    def place_of(self, address: int) -> tuple[int, int]:
        """The block and offset of an address."""
        for begin, size, number in self.places:
            if begin <= address < begin + size:
                return number, address - begin
        raise LookupError(f"no block has the address {address:#x}")

    def call(
        self, name: str, arguments: list["int | Block"], real: float = 0.0, checks: list[Check] | None = None
    ) -> None:
        values = [(1, each.number) if isinstance(each, Block) else (0, each) for each in arguments]
        parts = [text(name.encode()), struct.pack("<q", len(values)), *(struct.pack("<qq", *each) for each in values)]
        parts += [struct.pack("<f", real), struct.pack("<q", len(checks or []))]
        for check in checks or []:
            parts.append(
                struct.pack("<qq", check.block, check.offset) + text(KINDS[str(check.expected.dtype)].encode())
            )
            parts.append(text(bytes_of(check.expected)) + struct.pack("<d", check.bound))
        self.calls.append(b"".join(parts))

    def write(self, path: Path) -> None:
        with open(path, "wb") as file:
            file.write(struct.pack("<q", len(self.blocks)))
            for block in self.blocks:
                file.write(text(block))
            file.write(struct.pack("<q", len(self.pointers)))
            file.write(b"".join(struct.pack("<qqqq", *pointer) for pointer in self.pointers))
            file.write(struct.pack("<q", len(self.calls)))
            file.write(b"".join(self.calls))


@dataclass(frozen=True)
class Block:
    """An argument that is a pointer to a block; -1 is null."""

    number: int


def text(content: bytes) -> bytes:
    return struct.pack("<q", len(content)) + content


def bytes_of(tensor: Tensor) -> bytes:
    import torch

    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
