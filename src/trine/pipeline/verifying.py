"""`trine verify`: whether the files below a folder are what was written, to be asked after a copy or a crash.

Shards are compared with the digests taken when they were written; of weights, the header is checked against the file,
and every number is read and has to be finite.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from trine.data.shards import DESCRIPTION, Shards
from trine.model.safetensors_header import read_header
from trine.runtime.errors import TrineError

FLOATS = ("F32", "F16", "BF16")


def verify(folder: Path) -> Iterator[str]:
    """A line for every shard folder and file of weights below `folder` that is whole.

    Raises `TrineError` naming all files that are not, after the last line, or when there is nothing to verify.
    """
    if not folder.exists():
        raise TrineError(f"{folder} does not exist")
    damaged, found = [], False
    for path in sorted([*folder.rglob(DESCRIPTION), *folder.rglob("*.safetensors")]):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # unfinished
        found = True
        try:
            yield _shards(path.parent) if path.name == DESCRIPTION else _weights(path)
        except TrineError as error:
            damaged.append(str(error))
    if damaged:
        raise TrineError("\n".join(damaged))
    if not found:
        raise TrineError(f"{folder} holds neither shards nor safetensors; give the folder of a run or a recipe")


def _shards(folder: Path) -> str:
    shards = Shards(folder)
    compared = shards.verify()
    words = f"{compared} files, SHA-256 equal" if compared else "sizes equal; an earlier Trine recorded no digests"
    return f"{folder}: {words}"


def _weights(path: Path) -> str:
    places = read_header(path)
    for place in places.values():
        if place.dtype in FLOATS and not bool(torch.isfinite(place.read()).all()):
            raise TrineError(f"{path}: tensor {place.name} has numbers that are not finite")
    return f"{path}: {len(places)} tensors, all finite"
