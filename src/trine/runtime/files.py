"""Atomic writes: a file is written under a temporary name, flushed to disk, then renamed into place.

Errors of the system become a `TrineError` that names the file: `disk_errors` for writing, `read_errors` for reading. A
string may hold lone surrogates (a file name in another encoding, half of a pair in somebody's JSON): all text is
written with them as `\\udce9`, which is JSON's own escape, so that reading JSON gives them back."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trine.runtime.errors import TrineError
from trine.runtime.json_values import parse_json

_REMEDIES = {
    errno.ENOSPC: "free some space there or choose another place",
    errno.EDQUOT: "free some space there or choose another place",
    errno.EFBIG: "free some space there or choose another place",
    errno.EACCES: "give yourself the permission or choose another place",
    errno.EPERM: "give yourself the permission or choose another place",
    errno.EROFS: "the disk can only be read: choose another place",
    errno.ENOENT: "no file or folder can be made there: choose another place",
    errno.ENOTDIR: "a file is in the way: choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def sync_folder(folder: Path) -> None:
    """fsync `folder`, which makes renames inside it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise a full disk, a read-only folder and similar errors as a `TrineError` that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors writes in Rust and has its own error for a full disk
        reason = getattr(error, "strerror", None) or error
        raise TrineError(f"cannot write {path}: {reason}; {remedy(error)}") from error


def remedy(error: BaseException) -> str:
    """What to do about an error of writing, by its number, which errors of Rust and of PyTorch have in their words."""
    in_rust = re.search(r"(?:os error |\[Errno )(\d+)", str(error))
    number = getattr(error, "errno", None) or (int(in_rust[1]) if in_rust else 0)
    return _REMEDIES.get(number, "choose another place")


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise a missing file, one that may not be read and similar errors as a `TrineError` that names the path."""
    try:
        yield
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except PermissionError as error:
        raise TrineError(f"cannot read {path}: {error.strerror}; give yourself the permission (chmod u+r)") from error
    except OSError as error:
        raise TrineError(f"cannot read {path}: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the contents of `path` by `data`, atomically."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Lone surrogates are written as `\\udce9`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises `TrineError` naming the file if it is missing or invalid."""
    with read_errors(path):
        data = Path(path).read_bytes()
    try:
        return parse_json(data)
    except ValueError as error:
        raise TrineError(f"{path} is not readable JSON: {error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; raises `TrineError` naming file and line if one is invalid."""
    rows = []
    with read_errors(path):
        lines = Path(path).read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise TrineError(f"{path}:{number}: not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise TrineError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def aside_of(folder: Path) -> Path:
    """The temporary folder that `write_folder` renames to `folder`."""
    return folder.with_name(f".{folder.name}.partial")


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create `folder` atomically: `fill` writes into a temporary folder, which is then renamed.

    An existing `folder` is replaced. An incomplete folder never has the final name.
    """
    folder = Path(folder)
    aside = aside_of(folder)
    with disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            fill(aside)
            readable = aside.stat().st_mode & 0o666  # safetensors creates files that only their owner can read
            for path in aside.rglob("*"):
                if path.is_file():
                    path.chmod(readable)
                    _sync_file(path)
            sync_folder(aside)
            if folder.exists():
                old = folder.with_name(f".{folder.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                folder.replace(old)
                aside.replace(folder)
                shutil.rmtree(old)
            else:
                aside.replace(folder)
            sync_folder(folder.parent)
        except Exception:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256_of(*parts: bytes | str) -> str:
    """Hex digest of the parts, each prefixed by its length, so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    with read_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
