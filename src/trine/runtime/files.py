"""Atomic writes: a file is written under a temporary name, flushed to disk, then renamed into place."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trine.runtime.errors import TrineError


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
        raise TrineError(f"cannot write {path}: {reason}; free some space or choose --out") from error


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
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises `TrineError` naming the file if it is missing or invalid."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except (ValueError, RecursionError, OSError) as error:  # ValueError: JSON, UTF-8, and integers of 5,000 digits
        raise TrineError(f"{path} is not readable JSON: {error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; raises `TrineError` naming file and line if one is invalid."""
    return [row for _, row in read_numbered_jsonl(path)]


def read_numbered_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """`read_jsonl` with the line number of each row; blank lines are counted."""
    rows = []
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        raise TrineError(f"{path} does not exist") from None
    except OSError as error:
        raise TrineError(f"{path} is not a readable JSONL file: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise TrineError(f"{path}:{number}: not a JSON object in UTF-8: {error}") from error
        if not isinstance(row, dict):
            raise TrineError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append((number, row))
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
        data = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
