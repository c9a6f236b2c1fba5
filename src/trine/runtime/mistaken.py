"""What a file is when it is not what its name says: the commonest mishaps of downloads, told from its first bytes."""

from pathlib import Path

from trine.runtime.errors import TrineError

FIRST_BYTES = 512
_FETCH = "fetch the file itself with `git lfs pull` in its folder, or download it from the hub"
_BEGINNINGS = {
    b"version https://git-lfs": f"is a git-lfs pointer of some 130 bytes; {_FETCH}",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive, as PyTorch writes pickles; Trine opens nothing that must be unpickled",
    b"\x80\x02": "is a pickle; Trine opens nothing that must be unpickled",
    b"\xff\xfe": "is text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16; save it as UTF-8",
}


def mistaken_for(start: bytes) -> str | None:
    """What a file that begins with `start` is, as the rest of a sentence; None where nothing is recognised.

    >>> mistaken_for(b"<!DOCTYPE html><html>")
    'is an HTML page, such as a download that failed leaves; download the file again'
    """
    if not start:
        return "is empty; download the file again"
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, such as a download that failed leaves; download the file again"
    return next((words for first, words in _BEGINNINGS.items() if start.startswith(first)), None)


def refuse_mistaken(path: Path, start: bytes) -> None:
    """Raise a `TrineError` that says what `path` is, if its first bytes tell; call it where a file cannot be read."""
    words = mistaken_for(start)
    if words is not None:
        raise TrineError(f"{path} {words}")
