"""Baselines for a language model: a general compressor, and lines copied from the training text."""

import lzma
from collections import Counter
from collections.abc import Iterable, Iterator

from trine.records import Document

MIN_LINE_CHARACTERS = 12
COMPRESSED_BYTES = 16_000_000
SEARCHED_BYTES = 500_000_000


def xz_bits_per_byte(documents: Iterable[Document], max_bytes: int = COMPRESSED_BYTES) -> float:
    """Bits per byte of `xz -9` on the documents, one after the other, up to their first `max_bytes` bytes.

    xz compresses about 2 MB per second; because of its 64 MB window, more text changes the result little.
    """
    data = bytearray()
    for document in documents:
        data += document.text.encode("utf-8", "replace")
        if len(data) >= max_bytes:
            break
    data = data[:max_bytes]
    return 8 * len(lzma.compress(data, preset=9)) / max(len(data), 1)


def verbatim_line_share(held_out: Iterable[Document], train: Iterable[Document]) -> float:
    """Share of held-out lines of at least 12 characters, without indentation, that occur verbatim in `train`.

    Uses the first 16 MB of `held_out`, kept in memory, and the first 500 MB of `train`, read once.
    """
    first = _up_to(held_out, COMPRESSED_BYTES)
    counted = Counter(line for line in _lines(first) if len(line) >= MIN_LINE_CHARACTERS)
    unseen = dict(counted)
    for line in _lines(_up_to(train, SEARCHED_BYTES)):
        unseen.pop(line, None)
    return 1 - sum(unseen.values()) / counted.total() if counted else 0.0


def _up_to(documents: Iterable[Document], characters: int) -> Iterator[Document]:
    """The first documents, until their total length reaches `characters`."""
    read = 0
    for document in documents:
        yield document
        read += len(document.text)
        if read >= characters:
            return


def _lines(documents: Iterable[Document]) -> Iterator[str]:
    return (line.strip() for document in documents for line in document.text.splitlines())
