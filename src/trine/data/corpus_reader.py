"""Resumable reading of a corpus in batches; each batch has the place (source, unit, record) to continue from.

Reading can resume at any such place: earlier units are skipped, earlier records of its unit are read and dropped.
What a tally counts is added when a unit has been read, so a place carries the tallies of all previous units, and
nothing is counted twice."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

from trine.data.account import Tally
from trine.data.corpus import Corpus, no_text
from trine.records import Document

BATCH_CHARACTERS = 500_000
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class Place:
    """The next record to read. `found`: number of documents of the source before it."""

    source: int = 0
    unit: int = 0
    record: int = 0
    found: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Place":
        tallies = {name: Tally(**each) for name, each in values["tallies"].items()}
        return Place(**{**values, "tallies": tallies})


@dataclass(frozen=True)
class ReadBatch:
    """Documents of one source, in order; `size` in characters, `after` is the place after the last of them."""

    source: str
    source_number: int
    documents: tuple[Document, ...]
    size: int
    after: Place


def read_from(corpus: Corpus, place: Place) -> Iterator[ReadBatch]:
    """The corpus from `place` on. Raises `TrineError` at the end of a source without text or with too many broken."""
    tallies = deepcopy(place.tallies)
    for number in range(place.source, len(corpus.sources)):
        source = corpus.sources[number]
        start = place if number == place.source else Place()
        read = _SourceReader(corpus, number, start, tallies)
        yield from read.batches()
        tallies.setdefault(source.name, Tally()).check(source.name, corpus.config.max_broken_share)
        if not read.found:
            raise no_text(source)


class _SourceReader:
    """Batches of one source from `start` on; adds what it counts to `tallies`, unit by unit."""

    def __init__(self, corpus: Corpus, number: int, start: Place, tallies: dict[str, Tally]) -> None:
        self._corpus, self._source, self._number = corpus, corpus.sources[number], number
        self._start, self._tallies = start, tallies
        self.found = start.found
        self._pending: list[Document] = []
        self._size = 0

    def batches(self) -> Iterator[ReadBatch]:
        total = self._tallies.setdefault(self._source.name, Tally())
        for unit in range(self._start.unit, len(self._source.units)):
            tally = self._corpus.tally()
            skipped = self._start.record if unit == self._start.unit else 0
            for record, document in enumerate(self._source.units[unit].read(tally)):
                if record >= skipped:
                    self.found += 1
                    self._pending.append(document)
                    self._size += len(document.text)
                if self._size >= BATCH_CHARACTERS or len(self._pending) >= BATCH_DOCUMENTS:
                    yield self._batch(Place(self._number, unit, record + 1, self.found, deepcopy(self._tallies)))
            total.merge(tally)
        yield self._batch(Place(self._number + 1, tallies=deepcopy(self._tallies)))

    def _batch(self, after: Place) -> ReadBatch:
        batch = ReadBatch(self._source.name, self._number, tuple(self._pending), self._size, after)
        self._pending, self._size = [], 0
        return batch
