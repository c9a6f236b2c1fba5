"""Weight files: dtypes and shards in and out, and every way in which a file can be damaged or hostile."""

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from trine.model import safetensors_header
from trine.model.weight_files import open_weights, write_weights
from trine.runtime.errors import TrineError

WEIGHTS = {"first": torch.arange(6.0).view(2, 3), "second": torch.ones(4), "third": torch.full((2, 2), 0.5)}


def entry(start: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def write_raw(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """model.safetensors with this header (JSON unless bytes), data, and stated header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def same(read: Any, written: dict[str, Tensor]) -> bool:
    return set(read) == set(written) and all(torch.equal(read[name], written[name]) for name in written)


# Dtypes and shards


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_float_dtype_is_read_as_the_fp32_of_the_same_values(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {name: torch.randn(tensor.shape).to(dtype) for name, tensor in WEIGHTS.items()}
    stored |= {"scalar": torch.tensor(3.0, dtype=dtype), "empty": torch.zeros(0, 3, dtype=dtype)}
    save_file(stored, tmp_path / "model.safetensors")
    assert same(open_weights(tmp_path), {name: tensor.float() for name, tensor in stored.items()})


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_any_other_dtype_is_refused_by_name_when_the_tensor_is_wanted(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file(WEIGHTS | {"odd": torch.zeros(2).to(dtype)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    assert torch.equal(weights["first"], WEIGHTS["first"])
    with pytest.raises(TrineError, match=r"model.safetensors: tensor odd has dtype \w+; Trine reads F32, F16, BF16"):
        weights["odd"]


@pytest.mark.parametrize("largest", [1, 16, 30, 40, 1000])
def test_shards_hold_no_more_than_they_may_and_everything_together(largest: int, tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS, "float32", largest)
    assert same(open_weights(tmp_path), WEIGHTS)
    shards = [load_file(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    for shard in shards:
        assert len(shard) == 1 or sum(4 * tensor.numel() for tensor in shard.values()) <= largest
    assert (tmp_path / "model.safetensors.index.json").exists() == (len(shards) > 1)


def test_shards_are_named_and_indexed_as_elsewhere(tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS, "bfloat16", 20)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index["weight_map"] == {"first": first, "second": first, "third": second}
    assert index["metadata"]["total_size"] == 2 * 14


def test_writing_again_leaves_nothing_of_the_old_form(tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS, "float32", 16)
    write_weights(tmp_path, {"only": torch.ones(1)}, "float32", 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    write_weights(tmp_path, WEIGHTS, "float32", 16)
    assert same(open_weights(tmp_path), WEIGHTS)


def test_a_value_that_the_dtype_cannot_hold_is_refused_by_tensor(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match="tensor loud has values too large for float16"):
        write_weights(tmp_path, {"loud": torch.tensor([1.0, 1e6])}, "float16", 1000)


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS, "float32", 1000)
    read = open_weights(tmp_path)["first"]
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert torch.equal(read, WEIGHTS["first"])


# Damaged and hostile files

DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty file": (lambda folder: _bytes(folder, b""), "model\\.safetensors is empty"),
    "a header longer than the file": (lambda folder: write_raw(folder, {}, length=2**63), "its header should have"),
    "a header that is no JSON": (lambda folder: write_raw(folder, b"\x80\x04K."), "is not readable JSON"),
    "a header that is a list": (lambda folder: write_raw(folder, []), "holds a JSON list, not an object"),
    "a header nested without end": (lambda folder: write_raw(folder, b"[" * 200_000), "is not readable JSON"),
    "a tensor named twice": (
        lambda folder: write_raw(folder, b'{"a": {"dtype": "F32"}, "a": {}}'),
        "key 'a' appears more than once",
    ),
    "a tensor without dtype": (
        lambda folder: write_raw(folder, {"a": {"shape": [0], "data_offsets": [0, 0]}}),
        "tensor a is not described by",
    ),
    "an unknown dtype": (lambda folder: write_raw(folder, {"a": entry(0, 4, dtype="F4")}), "a has dtype 'F4'"),
    "a negative dimension": (lambda folder: write_raw(folder, {"a": entry(0, 4, [-1, -1])}), r"a has the shape \[-1"),
    "a boolean dimension": (lambda folder: write_raw(folder, {"a": entry(0, 4, [True])}), "a has the shape"),
    "an absurd dimension": (lambda folder: write_raw(folder, {"a": entry(0, 4, [2**70])}), "a has the shape"),
    "an absurd rank": (lambda folder: write_raw(folder, {"a": entry(0, 4, [1] * 1000)}), "a has the shape"),
    "dimensions whose product wraps to the size": (
        lambda folder: write_raw(folder, {"a": entry(0, 0, [2**32, 2**32])}),
        "tensor a of shape .* has 0 bytes",
    ),
    "offsets turned round": (
        lambda folder: write_raw(folder, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        "tensor a has the offsets",
    ),
    "negative offsets": (
        lambda folder: write_raw(folder, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        "tensor a has the offsets",
    ),
    "a tensor beyond the end": (
        lambda folder: write_raw(folder, {"a": entry(0, 400)}, bytes(40)),
        "tensor a ends at byte .*, the file at",
    ),
    "tensors on top of each other": (
        lambda folder: write_raw(folder, {"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
        "tensor b overlaps",
    ),
    "a gap": (
        lambda folder: write_raw(folder, {"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
        "nothing describes the 4 bytes before tensor b",
    ),
    "bytes after the last tensor": (
        lambda folder: write_raw(folder, {"a": entry(0, 4)}, bytes(9)),
        "its tensors end at byte",
    ),
}


def _bytes(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("make", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_its_name(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(TrineError, match=message) as caught:
        open_weights(tmp_path)
    assert str(path) in str(caught.value)


def test_a_header_above_the_limit_is_not_even_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_HEADER", 50)
    write_raw(tmp_path, b"[" * 51)
    with pytest.raises(TrineError, match="header has 51 bytes, the format allows 50"):
        open_weights(tmp_path)


@given(st.data())
def test_a_file_with_any_byte_changed_is_read_or_refused_but_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    write_weights(folder, WEIGHTS, "float32", 1000)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    try:
        weights = open_weights(folder)
        for name, place in weights.places.items():
            assert weights[name].numel() == math.prod(place.shape)
    except TrineError as error:
        assert str(path) in str(error)


def test_a_pipe_in_place_of_a_file_does_not_make_us_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(TrineError, match=r"model\.safetensors is not a file"):
        open_weights(tmp_path)


# The index


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "file",
    ["../other.safetensors", "/etc/other.safetensors", "a/b.safetensors", "a\\b.safetensors", "model.bin", "", 3],
)
def test_an_index_names_plain_files_of_its_own_folder_only(file: Any, tmp_path: Path) -> None:
    write_index(tmp_path, {"a": file})
    with pytest.raises(TrineError, match=r"index\.json puts tensor a into"):
        open_weights(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS, "float32", 1)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(TrineError, match=r"is missing 1 of its 3 shards: model-00002-of-00003\.safetensors"):
        open_weights(tmp_path)


def test_an_index_that_contradicts_its_shards_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS, "float32", 1)
    write_index(tmp_path, {"first": "model-00002-of-00003.safetensors"})
    with pytest.raises(TrineError, match=r"tensor first is in model-00002-of-00003\.safetensors, which does not"):
        open_weights(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, ["a"], "a"])
def test_an_index_without_a_map_is_refused(weight_map: Any, tmp_path: Path) -> None:
    write_index(tmp_path, weight_map)
    with pytest.raises(TrineError, match="has no weight_map"):
        open_weights(tmp_path)


def test_links_to_files_elsewhere_are_followed_as_download_folders_have_them(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write_weights(tmp_path / "blobs", WEIGHTS, "float32", 1000)
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "model.safetensors")
    assert same(open_weights(tmp_path / "snapshot"), WEIGHTS)


def test_pickled_weights_are_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TrineError, match=r"pytorch_model\.bin, a pickle.*use a safetensors version.*convert it"):
        open_weights(tmp_path)
