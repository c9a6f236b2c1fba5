"""The common work of encoding sides: encode the same texts, timed, and return a digest of the ids."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.protocol import Reply


def read_texts(folder: Path) -> list[str]:
    """The texts that `bench.texts` wrote."""
    with open(folder / "texts.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def describe(rows: Iterable[Sequence[int]], size: int, seconds: float, note: str) -> Reply:
    """The reply for texts of `size` bytes whose ids are `rows`; the digest depends on ids and order."""
    tokens, digest = 0, hashlib.blake2b(digest_size=16)
    for ids in rows:
        tokens += len(ids)
        digest.update(np.array([*ids, -1], np.int64).tobytes())
    setting = f"{size / 1e6:.0f} MB, {size / tokens:.2f} bytes a token; {note}"
    figures = {"seconds": seconds, "tokens": tokens, "megabytes": size / 1e6}
    return figures | {"digest": digest.hexdigest(), "setting": setting}


def encoding_work(
    folder: Path, encode: Callable[[Sequence[str]], Any], ids_of: Callable[[Any], list[list[int]]]
) -> Callable[..., Reply]:
    """The work `encode` of a side; extracting ids from the result of `encode` is timed separately, in the note."""
    texts = read_texts(folder)
    size = sum(len(text.encode()) for text in texts)

    def run(at_a_time: int, seed: int) -> Reply:
        pieces = [texts[start : start + at_a_time] for start in range(0, len(texts), at_a_time)]
        seconds, seconds_with_ids = 0.0, 0.0
        rows: list[list[int]] = []
        for piece in pieces:
            started = time.perf_counter()
            encoded = encode(piece)
            seconds += time.perf_counter() - started
            rows += ids_of(encoded)
            seconds_with_ids += time.perf_counter() - started
        return describe(rows, size, seconds, f"{size / 1e6 / seconds_with_ids:.1f} MB/s with the ids as lists")

    run.__name__ = "encode"
    return run
