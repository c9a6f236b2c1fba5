"""The order of training rows: every row once per epoch, reshuffled each epoch, with random access.

The position in the data is one number, the index in the endless sequence of rows (global sample index). A permutation
of R rows is a function, not a table: a balanced Feistel network on the next even number of bits, applied repeatedly
until the result is below R (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which needs no memory.
Sources with weights: a source of R rows and weight w gives epoch e the rows round(w e R) ... of its own endless
sequence of permutations, so weight 2 reads it twice per epoch, and weight 1/2 one half, then the other.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed, generator_for

ROUNDS = 6


class RowOrder(Protocol):
    """Global sample indices to row numbers."""

    def indices(self, start: int, count: int) -> NDArray[np.int64]:
        """Row numbers at indices `start` ... `start + count - 1` of the endless sequence."""
        ...

    def epochs(self, index: int) -> float:
        """Number of epochs before `index`."""
        ...

    @property
    def rows_per_epoch(self) -> float: ...


class Permutation:
    """A random permutation of range(size), a function of `seed`."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = generator_for(seed, "permutation").integers(0, 2**64, ROUNDS, dtype=np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of `places`, all within range(size)."""
        values = self._network(places.astype(np.uint64))
        while (outside := np.flatnonzero(values >= self.size)).size:
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class RunOrder:
    """All rows as one source, in permutations kept in memory (8 bytes per row)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def indices(self, start: int, count: int) -> NDArray[np.int64]:
        """See `RowOrder`."""
        return np.array([self._index(place) for place in range(start, start + count)], np.int64)

    def epochs(self, index: int) -> float:
        """See `RowOrder`."""
        return index / self.count

    @property
    def rows_per_epoch(self) -> float:
        """See `RowOrder`."""
        return float(self.count)

    def _index(self, place: int) -> int:
        epoch, place = divmod(place, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, generator_for(self.seed, "epoch", epoch).permutation(self.count)
        return int(self._order[place])


class MixedOrder:
    """Rows of several sources, numbered consecutively, mixed by weight and shuffled together."""

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.counts, self.seed = tuple(counts), seed
        self.weights = tuple(Fraction(str(weight)) for weight in weights)
        self._firsts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._per_epoch = sum(weight * count for weight, count in zip(self.weights, counts, strict=True))
        if not self._per_epoch:
            raise TrineError("no source of the corpus has a row to train on and a weight above 0")

    def indices(self, start: int, count: int) -> NDArray[np.int64]:
        """See `RowOrder`."""
        return np.concatenate([np.empty(0, np.int64), *self._runs(start, count)])

    def epochs(self, index: int) -> float:
        """See `RowOrder`."""
        epoch = self._epoch_of(index)
        first, end = self._before(epoch), self._before(epoch + 1)
        return epoch + (index - first) / (end - first)

    @property
    def rows_per_epoch(self) -> float:
        """See `RowOrder`."""
        return float(self._per_epoch)

    def _runs(self, start: int, count: int) -> Iterator[NDArray[np.int64]]:
        """The row numbers, epoch by epoch."""
        while count > 0:
            epoch = self._epoch_of(start)
            first, end = self._before(epoch), self._before(epoch + 1)
            taken = min(count, end - start)
            shuffle = Permutation(end - first, derive_seed(self.seed, "mixture", epoch))
            yield self._rows(epoch, shuffle(np.arange(start - first, start - first + taken)))
            start, count = start + taken, count - taken

    def _rows(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows at `places` of an epoch before shuffling, where sources come one after the other."""
        rows = np.empty_like(places)
        first = 0
        for source, count in enumerate(self.counts):
            begin, end = self._read(source, epoch), self._read(source, epoch + 1)
            mine = (places >= first) & (places < first + end - begin)
            passes, place = np.divmod(places[mine] - first + begin, max(count, 1))
            for number in np.unique(passes):
                permutation = Permutation(count, derive_seed(self.seed, "source", source, int(number)))
                place[passes == number] = permutation(place[passes == number])
            rows[mine] = place + self._firsts[source]
            first += end - begin
        return rows

    def _read(self, source: int, epoch: int) -> int:
        """Number of rows of a source in all epochs before `epoch`: round(w e R), exactly."""
        return int(self.weights[source] * epoch * self.counts[source] + Fraction(1, 2))

    def _before(self, epoch: int) -> int:
        return sum(self._read(source, epoch) for source in range(len(self.counts)))

    def _epoch_of(self, index: int) -> int:
        """The epoch of `index`; epochs without rows are skipped."""
        epoch = int(index / self._per_epoch)
        while epoch > 0 and self._before(epoch) > index:
            epoch -= 1
        while self._before(epoch + 1) <= index:
            epoch += 1
        return epoch
