"""What a model's figures stand beside: a general compressor, and what was simply there before."""

import lzma
from collections import Counter
from collections.abc import Iterable, Iterator

from trine.records import Document

SHORTEST_TELLING_LINE = 12
COMPRESSED_BYTES = 16_000_000


def xz_bits_per_byte(documents: Iterable[Document], most_bytes: int = COMPRESSED_BYTES) -> float:
    """Bits per byte of `xz -9` on the documents, one after the other, up to their first `most_bytes` bytes.

    xz compresses some 2 MB a second; its window of 64 MB makes more text cheaper by little.
    """
    data = bytearray()
    for document in documents:
        data += document.text.encode("utf-8", "replace")
        if len(data) >= most_bytes:
            break
    data = data[:most_bytes]
    return 8 * len(lzma.compress(data, preset=9)) / max(len(data), 1)


def verbatim_line_share(held_out: Iterable[Document], train: Iterable[Document]) -> float:
    """Share of held-out lines of at least 12 characters, indentation aside, that stand verbatim in `train`.

    Held-out lines stay in memory, each once; `train` is read through and never held.
    """
    telling = Counter(line for line in _lines(held_out) if len(line) >= SHORTEST_TELLING_LINE)
    unseen = dict(telling)
    for line in _lines(train):
        unseen.pop(line, None)
    return 1 - sum(unseen.values()) / telling.total() if telling else 0.0


def _lines(documents: Iterable[Document]) -> Iterator[str]:
    return (line.strip() for document in documents for line in document.text.splitlines())
