"""The rows of a race: token ids in two raw files and what they are, `train.bin`, `held_out.bin`, `race.json`.

Row i of training holds the ids [i T, i T + T] (T + 1 of them), in one shuffled order per epoch for every runner.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.texts import python_code
from trine.runtime.errors import TrineError
from trine.tokenizer.bpe import train_tokenizer

ABOUT = "race.json"
HELD_OUT_ONE_IN = 20


class RaceRows:
    """Training batches by step, and the validation rows; memory-mapped."""

    def __init__(self, folder: Path, row_tokens: int, batch_size: int) -> None:
        if not (folder / ABOUT).exists():
            raise TrineError(f"{folder} holds no {ABOUT}; make the rows with `python -m bench.race prepare --rows ...`")
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        self.train = np.memmap(folder / "train.bin", self.about["dtype"], "r")
        self.held_out = np.memmap(folder / "held_out.bin", self.about["dtype"], "r")
        self.row_tokens, self.batch_size = row_tokens, batch_size
        self.count = (len(self.train) - 1) // row_tokens
        self._epoch, self._order = -1, np.empty(0, np.int64)
        if self.count < batch_size:
            raise TrineError(f"{folder}: {self.count} rows of {row_tokens} tokens are fewer than one batch")

    @property
    def vocab_size(self) -> int:
        return int(self.about["vocab_size"])

    def batch(self, step: int) -> Tensor:
        """Windows [R, T + 1] of a step."""
        first = step * self.batch_size
        return torch.stack([self.row(index) for index in range(first, first + self.batch_size)])

    def row(self, index: int) -> Tensor:
        """Window [T + 1] number `index` of the endless sequence."""
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng(epoch).permutation(self.count)
        return self._window(self.train, int(self._order[place]))

    def validation(self, rows: int) -> Iterator[Tensor]:
        """The first `rows` windows of the held-out ids, a batch at a time."""
        count = min(rows, (len(self.held_out) - 1) // self.row_tokens)
        for first in range(0, count, self.batch_size):
            places = range(first, min(first + self.batch_size, count))
            yield torch.stack([self._window(self.held_out, place) for place in places])

    @property
    def bytes_per_token(self) -> float:
        """Of the held-out text."""
        return float(self.about["held_out_bytes"]) / len(self.held_out)

    def _window(self, ids: Any, place: int) -> Tensor:
        first = place * self.row_tokens
        return torch.from_numpy(ids[first : first + self.row_tokens + 1].astype(np.int64))


def prepare_from_texts(folder: Path, min_bytes: int, vocab_size: int) -> None:
    """Rows of the Python code on this machine, one file in `HELD_OUT_ONE_IN` held out, and their tokenizer."""
    texts = python_code(min_bytes)
    held_out = texts[::HELD_OUT_ONE_IN]
    train = [text for index, text in enumerate(texts) if index % HELD_OUT_ONE_IN]
    tokenizer = train_tokenizer(train, vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = _dtype(vocab_size)
    for name, part in (("train", train), ("held_out", held_out)):
        ids = [np.array([*row, tokenizer.end_of_text], dtype) for row in tokenizer.encode_batch(part)]
        (folder / f"{name}.bin").write_bytes(np.concatenate(ids).tobytes())
    tokenizer.save(folder)
    _write_about(folder, dtype, vocab_size, sum(len(text.encode()) for text in held_out))


def prepare_from_shards(folder: Path, shards: Path, part: str, vocab_size: int) -> None:
    """The ids that `trine shards` wrote: its training part, and held-out part `part`."""
    described = json.loads((shards / "shards.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("train", "train"), ("held_out", part)):
        shutil.copyfile(shards / source / "ids.bin", folder / f"{name}.bin")
    _write_about(folder, described["dtype"], vocab_size, int(described["parts"][part]["bytes"]))


def _dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size <= 2**16 else "uint32"


def _write_about(folder: Path, dtype: str, vocab_size: int, held_out_bytes: int) -> None:
    about = {"dtype": dtype, "vocab_size": vocab_size, "held_out_bytes": held_out_bytes}
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
