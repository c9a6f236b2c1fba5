"""The GGUF container: what is well formed is read, and nothing else."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from trine.model.gguf.container import read_container
from trine.runtime.errors import TrineError

UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
F32, Q8_0 = 0, 8


def string(text: str | bytes, length: int | None = None) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def pair(key: str, kind: int = UINT32, value: bytes = struct.pack("<I", 7)) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str = "w", shape: tuple[int, ...] = (4, 2), kind: int = F32, offset: int = 0) -> bytes:
    """`shape` as the file has it: row length first."""
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    pairs: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    *,
    magic: bytes = b"GGUF",
    version: bytes = struct.pack("<I", 3),
    counts: tuple[int, int] | None = None,
    data: bytes = bytes(64),
) -> bytes:
    header = magic + version + struct.pack("<QQ", *(counts or (len(tensors), len(pairs))))
    header += b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


# What is read


def test_every_kind_of_value_comes_back(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    numbers = {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -300, "uint32": 2**32 - 1, "int32": -(2**31)}
    numbers |= {"uint64": 2**64 - 1, "int64": -(2**63)}
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_float32("x.float", 0.5)
    writer.add_float64("x.double", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_string("x.text", "héllo")
    writer.add_array("x.words", ["a", "", "ü"])
    writer.add_array("x.numbers", [1, -2, 3])
    writer.add_array("x.truths", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_container(path).metadata
    assert {kind: metadata[f"x.{kind}"] for kind in numbers} == numbers
    assert (metadata["x.float"], metadata["x.double"], metadata["x.bool"]) == (0.5, 0.1, True)
    assert (metadata["x.text"], metadata["x.words"]) == ("héllo", ["a", "", "ü"])
    assert (metadata["x.numbers"], metadata["x.truths"]) == ([1, -2, 3], [True, False])


OF_NO_WEIGHTS = ("I8", "I16", "I32", "I64", "Q8_1", "Q8_K", "Q1_0")


@pytest.mark.parametrize("kind", GGMLQuantizationType, ids=lambda kind: kind.name)
def test_tensors_of_every_type_come_back_as_ggml_defines_them(kind: GGMLQuantizationType, path: Path) -> None:
    """4.1: whatever the `gguf` package dequantises is read, to the bit; what it does not is refused by name."""
    generator = np.random.default_rng(0)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    stored = generator.integers(0, 60, (3, 512 // block * block_bytes), dtype=np.uint8)
    write_tensor(path, stored, kind)
    if kind.name in OF_NO_WEIGHTS:
        with pytest.raises(TrineError, match=f"tensor w is stored as {kind.name}, which the gguf package cannot"):
            read_container(path).read("w")
        return
    read = read_container(path).read("w")
    assert (read.shape, read.dtype) == ((3, 512), np.float32)
    expected = stored.view(np.float64).astype(np.float32) if kind.name == "F64" else dequantize(stored, kind)
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "BF16", "F16", "TQ2_0"])
def test_quantised_values_are_near_those_that_were_quantised(kind: str, path: Path) -> None:
    """4.1: not only what the package makes of bytes, but what a person quantised comes back."""
    values = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    if kind == "TQ2_0":  # three values only
        values = np.sign(values)
    write_tensor(path, quantize(values, GGMLQuantizationType[kind]).view(np.uint8), GGMLQuantizationType[kind])
    assert np.abs(read_container(path).read("w") - values).max() < 0.4


def write_tensor(path: Path, stored: np.ndarray, kind: GGMLQuantizationType) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("w", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# What is refused, each with the file and the field

REFUSED = {
    "no GGUF": (gguf(magic=b"GGML"), "magic is b'GGML'"),
    "version 1": (gguf(version=struct.pack("<I", 1)), "version is 1; Trine reads 2 and 3"),
    "big-endian": (gguf(version=struct.pack(">I", 3)), r"version is 50331648 \(a big-endian file\)"),
    "too many tensors": (gguf(counts=(2**60, 0)), "tensor count needs"),
    "too many pairs": (gguf(counts=(0, 2**60)), "metadata count needs"),
    "a key beyond the end": (gguf((string("k", 2**40),)), "a metadata key is 1099511627776 bytes long"),
    "an empty key": (gguf((pair(""),)), "a metadata key is 0 bytes long"),
    "a key twice": (gguf((pair("a.b"), pair("a.b"))), "metadata key 'a.b' appears twice"),
    "an unknown value type": (gguf((pair("a", 13),)), "a has the unknown value type 13"),
    "a value beyond the end": (gguf((pair("a", STRING, string("", 2**50)),)), "a needs 1125899906842624 bytes"),
    "text that is not UTF-8": (gguf((pair("a", STRING, string(b"ok\xff")),)), "a is not UTF-8: .* at its byte 2"),
    "a truth value of 2": (gguf((pair("a", BOOL, b"\x02"),)), "a is a boolean of value 2"),
    "a long array": (gguf((pair("a", ARRAY, struct.pack("<IQ", UINT32, 2**61)),)), "a needs"),
    "a long array of text": (gguf((pair("a", ARRAY, struct.pack("<IQ", STRING, 2**61)),)), "a needs"),
    "an array of arrays": (gguf((pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1)),)), "a is an array of value type"),
    "an odd alignment": (gguf((pair("general.alignment"),)), "general.alignment is 7"),
    "an alignment of zero": (gguf((pair("general.alignment", value=bytes(4)),)), "general.alignment is 0"),
    "no dimension": (gguf(tensors=(tensor(shape=()),)), "tensor 'w' has 0 dimensions"),
    "five dimensions": (gguf(tensors=(tensor(shape=(1,) * 5),)), "tensor 'w' has 5 dimensions"),
    "an empty dimension": (gguf(tensors=(tensor(shape=(4, 0)),)), r"tensor 'w' has the impossible shape \(0, 4\)"),
    "a product beyond 64 bits": (gguf(tensors=(tensor(shape=(2**33, 2**33)),)), "has the impossible shape"),
    "an unknown tensor type": (gguf(tensors=(tensor(kind=99),)), "tensor 'w' has the unknown type 99"),
    "half a block": (gguf(tensors=(tensor(shape=(40, 1), kind=Q8_0),)), "rows of 40 values; Q8_0 stores multiples"),
    "an unaligned offset": (gguf(tensors=(tensor(offset=8),)), "tensor 'w' has offset 8"),
    "a tensor beyond the end": (gguf(tensors=(tensor(offset=2**40),)), "tensor 'w' ends at byte .* truncated"),
    "tensors over each other": (gguf(tensors=(tensor("v"), tensor("w"))), "tensor 'w' overlaps 'v'"),
    "a tensor twice": (gguf(tensors=(tensor(), tensor(offset=32))), "tensor 'w' appears twice"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_damaged_header_is_refused_with_file_and_field(content: bytes, reason: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(TrineError, match=reason) as caught:
        read_container(path)
    assert str(caught.value).startswith(str(path))


def test_the_headers_above_differ_from_a_good_one_in_the_one_thing_they_are_refused_for(path: Path) -> None:
    path.write_bytes(gguf((pair("a.b"), pair("c", BOOL, b"\x01")), (tensor("v"), tensor("w", offset=32))))
    assert read_container(path).tensors.keys() == {"v", "w"}


def test_missing_and_empty_files_are_refused(path: Path) -> None:
    with pytest.raises(TrineError, match="does not exist"):
        read_container(path)
    path.write_bytes(b"")
    with pytest.raises(TrineError, match="is empty; download the file again"):
        read_container(path)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = gguf((pair("a.b"), pair("c", STRING, string("text"))), (tensor("v"), tensor("w", offset=32)))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(TrineError):
            read_container(path)


def test_a_file_with_any_byte_changed_is_read_or_refused_and_never_worse(path: Path) -> None:
    whole = gguf((pair("a.b"), pair("c", ARRAY, struct.pack("<IQI", UINT32, 1, 1))), (tensor("v"),))
    dice = random.Random(0)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] = dice.randrange(256)
        path.write_bytes(changed)
        try:
            container = read_container(path)
            for name in container.tensors:
                container.read(name)
        except TrineError:
            continue
