"""Token shards: memory-mapped token ids of documents, each document followed by end-of-text.

A folder has one shard per part of a corpus (`train` and each held-out part), and `shards.json`, which describes them. A
shard is `ids.bin`, the documents one after the other, ordered by source, and `documents.bin`, a record for each
document; both are raw little-endian arrays. `shard_making.py` writes them, once per (corpus, tokenizer) fingerprint.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import TrineError
from trine.runtime.files import read_json

DESCRIPTION = "shards.json"
MAKING = "making.json"
TRAIN = "train"
# `signed`: whether the document has a signature for near duplicates (enough words).
DOCUMENT = np.dtype(
    [("first", "<i8"), ("tokens", "<i8"), ("bytes", "<i8"), ("source", "<i4"), ("signed", "u1"), ("digest", "u1", 16)]
)

Scalar = TypeVar("Scalar", bound=np.generic)


def mapped(path: Path, dtype: "np.dtype[Scalar]") -> NDArray[Scalar]:
    """The array in a file, memory-mapped."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r")


class Shard:
    """One part of a corpus. `tokens` counts end-of-text tokens too, `bytes` the UTF-8 bytes of the texts."""

    def __init__(self, folder: Path, description: dict[str, Any], dtype: str) -> None:
        self.folder = folder
        self.tokens, self.bytes = int(description["tokens"]), int(description["bytes"])
        self.source_documents: tuple[int, ...] = tuple(description["source_documents"])
        self.document_count = sum(self.source_documents)
        self._dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype(dtype)

    @cached_property
    def ids(self) -> NDArray[np.unsignedinteger[Any]]:
        """All token ids, in the smallest type that holds the vocabulary."""
        return mapped(self.folder / "ids.bin", self._dtype)

    @cached_property
    def documents(self) -> NDArray[np.void]:
        """A `DOCUMENT` record each: first token, number of tokens, bytes, source and digest."""
        return mapped(self.folder / "documents.bin", DOCUMENT)

    def documents_by_source(self) -> list[NDArray[np.void]]:
        """The documents of each source of the corpus, in its order."""
        bounds = np.cumsum((0, *self.source_documents)).tolist()
        return [self.documents[first:end] for first, end in pairwise(bounds)]

    def source_runs(self) -> tuple[tuple[int, int], ...]:
        """(first token, number of tokens) of each source."""
        return tuple(
            (int(documents["first"][0]), int(documents["tokens"].sum())) if len(documents) else (0, 0)
            for documents in self.documents_by_source()
        )

    def document_ids(self) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """The ids of each document, without end-of-text."""
        for first, tokens in zip(self.documents["first"].tolist(), self.documents["tokens"].tolist(), strict=True):
            yield self.ids[first : first + tokens - 1]


class Shards:
    """The shards of a corpus: `train`, and `held_out` by part. Raises `TrineError` if `folder` has none.

    Example::

        shards = Shards(Path("runs/shards"))
        print(shards.train.tokens, shards.train.ids[:10])
    """

    def __init__(self, folder: Path, weights: tuple[float, ...] = ()) -> None:
        """`weights`: how often an epoch reads each source; by default as when the shards were written."""
        if not (folder / DESCRIPTION).exists():
            raise TrineError(
                f"{folder} holds no finished shards ({DESCRIPTION} is missing); "
                "name the run folder of a finished `trine shards`"
            )
        self.folder = folder
        self.description: dict[str, Any] = read_json(folder / DESCRIPTION)
        parts = {
            name: Shard(folder / name, part, self.description["dtype"])
            for name, part in self.description["parts"].items()
        }
        self.train = parts.pop(TRAIN)
        self.held_out = parts
        self.weights = weights or tuple(float(source["weight"]) for source in self.description["sources"])

    @property
    def fingerprint(self) -> str:
        return str(self.description["fingerprint"])

    @property
    def bytes_per_token(self) -> float:
        shards = [self.train, *self.held_out.values()]
        return sum(shard.bytes for shard in shards) / max(sum(shard.tokens for shard in shards), 1)

    @property
    def contents(self) -> dict[str, Any]:
        """Sizes, filter counts and unreadable records, for a stage's results."""
        parts = {TRAIN: self.train, **self.held_out}
        sizes = {
            name: {"documents": shard.document_count, "tokens": shard.tokens, "bytes": shard.bytes}
            for name, shard in parts.items()
        }
        kept = ("outcomes", "records", "account", "broken")
        described = {key: self.description[key] for key in kept if key in self.description}
        return {"parts": sizes, **described, "bytes_per_token": self.bytes_per_token}

    @property
    def making(self) -> dict[str, float]:
        """Writing statistics: seconds, megabytes per second, number of workers."""
        return dict(read_json(self.folder / MAKING))

    @property
    def overview(self) -> str:
        """Sizes and fingerprint in one line, for messages."""
        held_out = self.held_out.values()
        return (
            f"{self.train.document_count} documents, {self.train.bytes / 1e6:.1f} MB to train on; "
            f"{sum(shard.document_count for shard in held_out)}, {sum(shard.bytes for shard in held_out) / 1e6:.1f} MB "
            f"held out; {self.bytes_per_token:.2f} bytes per token; fingerprint {self.description['corpus'][:16]}"
        )
