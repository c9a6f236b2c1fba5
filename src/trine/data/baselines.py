"""What a model's figures stand beside: a general compressor, and what was simply there before."""

import lzma
from collections.abc import Sequence

from trine.records import Document

SHORTEST_TELLING_LINE = 12


def xz_bits_per_byte(documents: Sequence[Document]) -> float:
    """Bits per byte of `xz -9` on the documents, one after the other."""
    data = "".join(document.text for document in documents).encode("utf-8", "replace")
    return 8 * len(lzma.compress(data, preset=9)) / max(len(data), 1)


def verbatim_line_share(held_out: Sequence[Document], train: Sequence[Document]) -> float:
    """Share of held-out lines of at least 12 characters, indentation aside, that stand verbatim in `train`."""
    known = {line.strip() for document in train for line in document.text.splitlines()}
    lines = [line.strip() for document in held_out for line in document.text.splitlines()]
    telling = [line for line in lines if len(line) >= SHORTEST_TELLING_LINE]
    return sum(line in known for line in telling) / max(len(telling), 1)
