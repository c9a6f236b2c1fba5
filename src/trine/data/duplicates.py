"""Detection of exact and near duplicates.

Exact: equal after removing white space, as in codeparrot. Near: the sets of words (runs of letters,
digits and `_`) have a Jaccard similarity of 0.85 or more, estimated by MinHash (Broder 1997) with 256 permutations, and
candidates are found by locality-sensitive hashing (Indyk & Motwani 1998) through `datasketch`. Sets of words, 256 and
0.85 are codeparrot's (minhash_deduplication.py, after Allamanis 2019), as is skipping texts of fewer than 10
words. Codeparrot then compared the candidates' texts, which it could load again; here their signatures are compared,
which estimates the same with a standard error of sqrt(0.85 * 0.15 / 256) = 0.022.
"""

import hashlib
import string
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trine.config.corpus import FilterConfig
from trine.runtime.errors import TrineError

if TYPE_CHECKING:
    from datasketch import MinHash

Signature = NDArray[np.uint32]

MIN_WORDS = 10
WORDS_AT_A_TIME = 256  # so that the hash values fit in the cache
_WORD_BYTES = frozenset((string.ascii_letters + string.digits + "_").encode())
_SPACED = bytes(byte if byte in _WORD_BYTES else ord(" ") for byte in range(256))


def content_digest(text: str) -> bytes:
    """A digest of 16 bytes that ignores white space."""
    return hashlib.blake2b("".join(text.split()).encode("utf-8", "replace"), digest_size=16).digest()


def signature(text: str, config: FilterConfig) -> Signature | None:
    """The MinHash of the text's words, uint32 [permutations]; None for a text of fewer than 10 words."""
    words = text.encode("utf-8", "replace").translate(_SPACED).split()
    if len(words) < MIN_WORDS:
        return None
    distinct = list(set(words))
    sketch = _empty_sketch(config.permutations).copy()
    for start in range(0, len(distinct), WORDS_AT_A_TIME):
        sketch.update_batch(distinct[start : start + WORDS_AT_A_TIME])
    values: Signature = sketch.hashvalues
    return values


class DuplicateFinder:
    """Tells whether a document duplicates an earlier one; sequential, and therefore deterministic.

    This is the only part of reading a corpus whose memory grows with it. Measured: 110 bytes per kept document with
    `exact_duplicates`; with `near_duplicates` 5.4 kB at 256 permutations, of which 1 kB is the signature and the rest
    datasketch's 13 hash tables. A million documents take 5.5 GB.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._digests: set[bytes] = set()
        self._signatures: list[Signature] = []
        self._index: Any = _index(config) if config.near_duplicates else None

    def find(self, digest: bytes, signature: Signature | None) -> Literal["exact", "near"] | None:
        """Whether the document is a duplicate; otherwise it is remembered.

        `digest` is used with `exact_duplicates`, `signature` with `near_duplicates`; None has no near duplicates.
        """
        if self._config.exact_duplicates and digest in self._digests:
            return "exact"
        if self._index is not None and signature is not None:
            sketch = _sketch(signature)
            if any(self._alike(signature, number) for number in self._index.query(sketch)):
                return "near"
            self._index.insert(len(self._signatures), sketch)
            self._signatures.append(signature)
        if self._config.exact_duplicates:
            self._digests.add(digest)
        return None

    def _alike(self, signature: Signature, number: int) -> bool:
        """The share of equal values is an unbiased estimate of the Jaccard similarity."""
        return float(np.mean(signature == self._signatures[number])) >= self._config.near_duplicate_similarity


def _index(config: FilterConfig) -> Any:
    datasketch = _datasketch()
    return datasketch.MinHashLSH(config.near_duplicate_similarity, config.permutations, hashfunc=_band_digest)


def _band_digest(band: bytes) -> bytes:
    """8 bytes for a band of a signature, which is ten times as long; a collision is one more candidate to compare."""
    return hashlib.blake2b(band, digest_size=8).digest()


@lru_cache(maxsize=4)
def _empty_sketch(permutations: int) -> "MinHash":
    return _datasketch().MinHash(permutations, hashfunc=zlib.crc32)  # type: ignore[no-any-return]


def _sketch(signature: Signature) -> "MinHash":
    sketch = _empty_sketch(len(signature)).copy()
    sketch.hashvalues = signature
    return sketch


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError:
        raise TrineError("near_duplicates needs datasketch: pip install 'trine[clean]'") from None
    return datasketch
