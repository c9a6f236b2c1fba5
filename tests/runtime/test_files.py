"""Files are whole or absent, whatever fails on the way."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from trine.runtime import files
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl, sha256_of, write_bytes, write_folder, write_json, write_jsonl

FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more can be flushed to the disk."""

    def refuse(descriptor: int) -> None:
        raise FULL_DISK

    monkeypatch.setattr(files.os, "fsync", refuse)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        write_bytes(tmp_path / "made" / "file", data)
    assert (tmp_path / "made" / "file").read_bytes() == b"new"
    assert names(tmp_path / "made") == ["file"]


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path: Path, full_disk: None) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(TrineError, match=r"cannot write .*file: No space left on device; free some space"):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, full_disk: None) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(TrineError, match="No space left on device"):
        write_folder(tmp_path / "folder", lambda aside: (aside / "a").write_text("new") and None)
    assert (tmp_path / "folder" / "a").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_folder_whose_filling_fails_does_not_appear(tmp_path: Path) -> None:
    def fill(aside: Path) -> None:
        (aside / "half").write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_folder(tmp_path / "folder", fill)
    assert names(tmp_path) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write_folder(tmp_path / "folder", lambda aside, name=name: (aside / name).write_text(name) and None)
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["folder"]


def test_remains_of_a_killed_process_do_not_get_into_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".folder.partial").mkdir()
    (tmp_path / ".folder.partial" / "remains").write_text("half")
    write_folder(tmp_path / "folder", lambda aside: (aside / "a").write_text("new") and None)
    assert names(tmp_path / "folder") == ["a"]


TENSORS_ON_A_FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
folder = Path(sys.argv[1])
try:
    write_folder(folder / "model", lambda aside: save_file({"a": torch.zeros(100_000)}, aside / "a.safetensors"))
except TrineError as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_tensors_that_do_not_fit_the_disk_leave_nothing_half_written(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", TENSORS_ON_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    message, left = run.stdout.splitlines()
    assert message.startswith(f"cannot write {tmp_path}/model: ") and "free some space" in message
    assert left == "[]"


def test_json_round_trips_with_its_letters(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "Größe ↑"}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "Größe ↑" in (tmp_path / "value.json").read_text("utf-8")


def test_jsonl_keeps_line_separators_inside_strings(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028two\x85three\nfour\x0cfive"}, {"text": ""}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("line", [b'{"a": 1', b"[1]", b'{"a": "\xff"}'])
def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(TrineError, match=rf"{path}:3: "):
        read_jsonl(path)


def test_missing_and_broken_json_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(TrineError, match=r"half\.json is not readable JSON"):
        read_json(tmp_path / "half.json")


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path, read: object) -> None:
    with pytest.raises(TrineError, match=str(tmp_path)):
        read(tmp_path)  # type: ignore[operator]


def test_a_hash_of_parts_knows_where_they_end() -> None:
    assert sha256_of("ab", "c") != sha256_of("a", "bc")
    assert sha256_of("a", b"b") == sha256_of(b"a", "b")


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "free some space there or choose another place"),
        (errno.EDQUOT, "free some space there or choose another place"),
        (errno.EACCES, "give yourself the permission or choose another place"),
        (errno.EROFS, "the disk can only be read: choose another place"),
        (errno.ENOENT, "no file or folder can be made there: choose another place"),
    ],
)
@pytest.mark.parametrize(
    "write", [lambda path: write_json(path, {}), lambda path: write_folder(path, lambda aside: None)]
)
def test_errors_of_the_system_are_named_with_what_helps(
    tmp_path: Path, number: int, remedy: str, write: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.3, 5.6: space is not what is missing where there is no permission."""

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(TrineError) as caught:
        write(tmp_path / "out")  # type: ignore[operator]
    assert str(caught.value) == f"cannot write {tmp_path / 'out'}: {os.strerror(number)}; {remedy}"


@pytest.mark.parametrize("read", [read_json, read_jsonl, files.sha256_of_file])
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.3: by every reader, and one that is gone, or of which the disk has lost a part."""
    with pytest.raises(TrineError, match=r"gone does not exist"):
        read(tmp_path / "gone")  # type: ignore[operator]
    with pytest.raises(TrineError, match=r"cannot read /proc/self/mem: Input/output error"):
        read(Path("/proc/self/mem"))  # type: ignore[operator]

    def refuse(*rest: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TrineError, match=r"cannot read .*a: Permission denied; give yourself the permission"):
        read(tmp_path / "a")  # type: ignore[operator]


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"9" * 5000, b'{"a": 1, "a": 2}', b'{"a": "\xff"}', b"", b"\xff\xfe{"]
)
def test_json_that_cannot_be_taken_is_named(tmp_path: Path, data: bytes) -> None:
    """3.8: deep nesting, numbers of thousands of digits, keys that stand twice."""
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(TrineError, match=r"a\.json is not readable JSON"):
        read_json(tmp_path / "a.json")


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """3.8."""
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.json").write_bytes('{"a": "Größe"}'.encode(encoding))
        assert read_json(tmp_path / "a.json") == {"a": "Größe"}
