"""What a model's figures stand beside: a general compressor, and what was simply there before."""

import lzma
from collections import Counter
from collections.abc import Iterable, Iterator

from trine.records import Document

SHORTEST_TELLING_LINE = 12
COMPRESSED_BYTES = 16_000_000
SEARCHED_BYTES = 500_000_000


def xz_bits_per_byte(documents: Iterable[Document], max_bytes: int = COMPRESSED_BYTES) -> float:
    """Bits per byte of `xz -9` on the documents, one after the other, up to their first `max_bytes` bytes.

    xz compresses some 2 MB a second; its window of 64 MB makes more text cheaper by little.
    """
    data = bytearray()
    for document in documents:
        data += document.text.encode("utf-8", "replace")
        if len(data) >= max_bytes:
            break
    data = data[:max_bytes]
    return 8 * len(lzma.compress(data, preset=9)) / max(len(data), 1)


def verbatim_line_share(held_out: Iterable[Document], train: Iterable[Document]) -> float:
    """Share of held-out lines of at least 12 characters, indentation aside, that stand verbatim in `train`.

    Of the first 16 MB of `held_out`, whose lines stay in memory, and the first 500 MB of `train`, which is read once.
    """
    first = _up_to(held_out, COMPRESSED_BYTES)
    telling = Counter(line for line in _lines(first) if len(line) >= SHORTEST_TELLING_LINE)
    unseen = dict(telling)
    for line in _lines(_up_to(train, SEARCHED_BYTES)):
        unseen.pop(line, None)
    return 1 - sum(unseen.values()) / telling.total() if telling else 0.0


def _up_to(documents: Iterable[Document], characters: int) -> Iterator[Document]:
    """The first documents, up to the one that reaches `characters`."""
    read = 0
    for document in documents:
        yield document
        read += len(document.text)
        if read >= characters:
            return


def _lines(documents: Iterable[Document]) -> Iterator[str]:
    return (line.strip() for document in documents for line in document.text.splitlines())
