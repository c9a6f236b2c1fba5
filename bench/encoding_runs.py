"""What both encoding sides do: encode the same texts, timed, and give a digest of the ids."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.protocol import Reply


def encoding_work(
    folder: Path, encode: Callable[[Sequence[str]], Any], ids_of: Callable[[Any], list[list[int]]]
) -> Callable[..., Reply]:
    """The work `encode` of a side; taking the ids out of what `encode` returns is timed apart and said in the note."""
    texts = json.loads((folder / "texts.json").read_text())
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    def run(at_a_time: int, seed: int) -> Reply:
        pieces = [texts[start : start + at_a_time] for start in range(0, len(texts), at_a_time)]
        seconds, seconds_with_ids, tokens, digest = 0.0, 0.0, 0, hashlib.blake2b(digest_size=16)
        for piece in pieces:
            started = time.perf_counter()
            encoded = encode(piece)
            seconds += time.perf_counter() - started
            rows = ids_of(encoded)
            seconds_with_ids += time.perf_counter() - started
            for ids in rows:
                tokens += len(ids)
                digest.update(np.array([*ids, -1], np.int64).tobytes())
        note = f"{megabytes:.0f} MB, {megabytes * 1e6 / tokens:.2f} bytes a token; "
        note += f"{megabytes / seconds_with_ids:.1f} MB/s with the ids as lists"
        figures = {"seconds": seconds, "tokens": tokens, "megabytes": megabytes}
        return figures | {"digest": digest.hexdigest(), "setting": note}

    run.__name__ = "encode"
    return run
