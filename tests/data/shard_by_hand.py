"""A training shard written by hand, for tests of what reads one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trine.data.shards import DOCUMENT, Shard


def shard_of(folder: Path, sources: Sequence[Sequence[Sequence[int]]], dtype: str = "<u2") -> Shard:
    """`sources`: of each source its documents, of each document its ids, end-of-text included."""
    documents = [(number, ids) for number, source in enumerate(sources) for ids in source]
    table = np.zeros(len(documents), DOCUMENT)
    table["source"] = [number for number, _ in documents]
    table["tokens"] = [len(ids) for _, ids in documents]
    table["first"] = np.cumsum(table["tokens"]) - table["tokens"]
    folder.mkdir(parents=True, exist_ok=True)
    table.tofile(folder / "documents.bin")
    np.array([token for _, ids in documents for token in ids], dtype).tofile(folder / "ids.bin")
    described = {
        "tokens": int(table["tokens"].sum()), "bytes": 0, "source_documents": [len(source) for source in sources],
    }  # fmt: skip
    return Shard(folder, described, dtype)


def numbered_documents(lengths: Sequence[int], first: int = 0) -> list[list[int]]:
    """Documents of so many tokens, no two tokens alike: a token is its place in the shard."""
    starts = first + np.cumsum([0, *lengths])
    return [list(range(start, start + length)) for start, length in zip(starts.tolist(), lengths, strict=False)]
