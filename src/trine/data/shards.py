"""Token shards: memory-mapped token ids of documents, each document followed by end-of-text.

A folder has one shard per part of a corpus (`train` and each held-out part), and `shards.json`, which describes them. A
shard is `ids.bin`, the documents one after the other, ordered by source, and `documents.bin`, a record for each
document; both are raw little-endian arrays. `shard_making.py` writes them, once per (corpus, tokenizer) fingerprint.

Invariant of what `Shards` opens: every file has the size that `shards.json` promises, so that a copy cut short or a
full disk is noticed before anything is read. `Shards.verify` also compares the digests of the contents.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, sha256_of_file

DESCRIPTION = "shards.json"
MAKING = "making.json"
TRAIN = "train"
DTYPES = ("<u2", "<u4")
# `signed`: whether the document has a signature for near duplicates (enough words).
DOCUMENT = np.dtype(
    [("first", "<i8"), ("tokens", "<i8"), ("bytes", "<i8"), ("source", "<i4"), ("signed", "u1"), ("digest", "u1", 16)]
)

Scalar = TypeVar("Scalar", bound=np.generic)


def mapped(path: Path, dtype: "np.dtype[Scalar]", count: int) -> NDArray[Scalar]:
    """The `count` values in a file, memory-mapped. Raises `TrineError` if the file is missing or has another size."""
    check_size(path, count * dtype.itemsize)
    return np.memmap(path, dtype, "r") if count else np.empty(0, dtype)


def check_size(path: Path, size: int) -> None:
    """Raise `TrineError` unless the file has `size` bytes."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise TrineError(f"{path} cannot be read: {error.strerror or error}") from None
    if found != size:
        raise TrineError(
            f"{path} has {found:,} bytes and should have {size:,}: it was cut short or changed after it was written; "
            "copy it again from where it is whole, or encode the corpus again into another folder"
        )


class Shard:
    """One part of a corpus. `tokens` counts end-of-text tokens too, `bytes` the UTF-8 bytes of the texts."""

    def __init__(self, folder: Path, description: dict[str, Any], dtype: str) -> None:
        self.folder = folder
        self.tokens, self.bytes = int(description["tokens"]), int(description["bytes"])
        self.source_documents: tuple[int, ...] = tuple(description["source_documents"])
        self.document_count = sum(self.source_documents)
        self._dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype(dtype)
        self._digests: dict[str, str] = description.get("sha256", {})
        check_size(folder / "ids.bin", self.tokens * self._dtype.itemsize)
        check_size(folder / "documents.bin", self.document_count * DOCUMENT.itemsize)

    @cached_property
    def ids(self) -> NDArray[np.unsignedinteger[Any]]:
        """All token ids, in the smallest type that holds the vocabulary."""
        return mapped(self.folder / "ids.bin", self._dtype, self.tokens)

    @cached_property
    def documents(self) -> NDArray[np.void]:
        """A `DOCUMENT` record each: first token, number of tokens, bytes, source and digest."""
        return mapped(self.folder / "documents.bin", DOCUMENT, self.document_count)

    def check_contents(self, vocab_size: int) -> None:
        """Raise `TrineError` unless documents follow each other and every id is in the vocabulary; reads all ids."""
        tokens = self.documents["tokens"]
        follows = np.cumsum(tokens) - tokens == self.documents["first"]
        if tokens.sum() != self.tokens or (tokens < 1).any() or not follows.all():
            raise TrineError(
                f"{self.folder / 'documents.bin'} is damaged: its documents do not fill {self.tokens:,} tokens"
            )
        if self.tokens and int(self.ids.max()) >= vocab_size:
            raise TrineError(
                f"{self.folder / 'ids.bin'} is damaged: token id {int(self.ids.max())} is outside the vocabulary of "
                f"{vocab_size:,}"
            )

    def verify(self) -> int:
        """Compare the files with the digests taken when they were written; the number of files that have one.

        Raises `TrineError` naming a file whose contents have changed.
        """
        for name, digest in self._digests.items():
            if sha256_of_file(self.folder / name) != digest:
                raise TrineError(
                    f"{self.folder / name} is not what was written (its SHA-256 differs); copy it again from where it "
                    "is whole, or encode the corpus again into another folder"
                )
        return len(self._digests)

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


def read_description(path: Path) -> dict[str, Any]:
    """shards.json. Raises `TrineError` naming the file when it is damaged or is another program's."""
    described = read_json(path)
    try:
        parts = described["parts"]
        numbers = [part[key] for part in parts.values() for key in ("tokens", "bytes")]
        numbers += [count for part in parts.values() for count in part["source_documents"]]
        whole = TRAIN in parts and all(type(number) is int and number >= 0 for number in numbers)
        whole = whole and described["dtype"] in DTYPES and all(source["weight"] >= 0 for source in described["sources"])
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise TrineError(
            f"{path} does not describe shards: it is damaged, or no `trine shards` wrote it; copy it again from where "
            "it is whole, or encode the corpus again into another folder"
        )
    return dict(described)


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
        self.description = read_description(folder / DESCRIPTION)
        parts = {
            name: Shard(folder / name, part, self.description["dtype"])
            for name, part in self.description["parts"].items()
        }
        self.train = parts.pop(TRAIN)
        self.held_out = parts
        self.weights = weights or tuple(float(source["weight"]) for source in self.description["sources"])

    def check_contents(self, vocab_size: int) -> None:
        """See `Shard.check_contents`."""
        for shard in (self.train, *self.held_out.values()):
            shard.check_contents(vocab_size)

    def verify(self) -> int:
        """Compare every file with its digest (`Shard.verify`); the number of files compared."""
        return sum(shard.verify() for shard in (self.train, *self.held_out.values()))

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
