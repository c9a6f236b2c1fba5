"""Token shards: documents as one memory-mapped run of ids, each closed by end-of-text.

A shard is made once per (corpus, tokenizer) fingerprint and read without copying. Training rows are windows of
it: row i holds tokens [i T, (i + 1) T] (one more than T, since each token but the first is a target).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trine.records import Document, Encode
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_folder, write_json
from trine.runtime.seeds import generator_for

DOCUMENTS_AT_A_TIME = 256


class Shard:
    """The token ids of a document list, on disk."""

    def __init__(self, folder: Path) -> None:
        self.description = read_json(folder / "shard.json")
        self.ids = np.memmap(folder / "ids.bin", dtype=self.description["dtype"], mode="r")

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text behind the ids."""
        return int(self.description["bytes"])


def make_shard(
    folder: Path, documents: Sequence[Document], encode: Encode, end_of_text: int, vocab_size: int, fingerprint: str
) -> Shard:
    """Encode `documents` into `folder`, unless it already holds this very `fingerprint`."""
    if (folder / "shard.json").exists() and read_json(folder / "shard.json")["fingerprint"] == fingerprint:
        return Shard(folder)
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"

    def fill(aside: Path) -> None:
        tokens = size = 0
        with open(aside / "ids.bin", "wb") as file:
            for start in range(0, len(documents), DOCUMENTS_AT_A_TIME):
                texts = [document.text for document in documents[start : start + DOCUMENTS_AT_A_TIME]]
                for text, ids in zip(texts, encode(texts), strict=True):
                    file.write(np.array([*ids, end_of_text], dtype).tobytes())
                    tokens += len(ids) + 1
                    size += len(text.encode("utf-8", "replace"))
        described = {"fingerprint": fingerprint, "dtype": dtype, "tokens": tokens, "bytes": size}
        write_json(aside / "shard.json", described | {"documents": len(documents)})

    write_folder(folder, fill)
    return Shard(folder)


class Windows:
    """Windows of T + 1 tokens of a shard in a seeded order, reshuffled each epoch.

    `rows(start, count)` is a function of the global sample index alone, which is the data position of a checkpoint.
    """

    def __init__(self, ids: np.ndarray, length: int, seed: int) -> None:  # type: ignore[type-arg]
        self.ids, self.length, self.seed = ids, length, seed
        self.count = (len(ids) - 1) // length
        if self.count < 1:
            raise TrineError(
                f"the corpus has {len(ids)} tokens, fewer than one row of {length} + 1; "
                "give more text or a smaller row_tokens"
            )
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def rows(self, start: int, count: int) -> Tensor:
        """Windows number `start` ... of the endless sequence, [count, T + 1] int64."""
        return torch.from_numpy(np.stack([self._window(index) for index in range(start, start + count)]))

    def _window(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, generator_for(self.seed, "epoch", epoch).permutation(self.count)
        first = int(self._order[place]) * self.length
        return self.ids[first : first + self.length + 1].astype(np.int64)
