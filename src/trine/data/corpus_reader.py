"""Resumable reading of a corpus in batches; each batch has the place (source, unit, record) to continue from.

Reading can resume at any such place: earlier units are skipped, earlier records of its unit are read and dropped.
Damage is counted when a unit has been read, so a place carries the damage of all previous units, and none is counted
twice.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

from trine.data.corpus import Corpus, no_text
from trine.data.readers import Damage
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
    damage: dict[str, Damage] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Place":
        damage = {name: Damage(**each) for name, each in values["damage"].items()}
        return Place(**{**values, "damage": damage})


@dataclass(frozen=True)
class ReadBatch:
    """Documents of one source, in order; `size` in characters, `after` is the place after the last of them."""

    source: str
    source_number: int
    documents: tuple[Document, ...]
    size: int
    after: Place


def read_from(corpus: Corpus, place: Place) -> Iterator[ReadBatch]:
    """The corpus from `place` on. Raises `TrineError` at the end of a source without text or with too much damage."""
    damage = deepcopy(place.damage)
    for number in range(place.source, len(corpus.sources)):
        source = corpus.sources[number]
        start = place if number == place.source else Place()
        read = _SourceReader(corpus, number, start, damage)
        yield from read.batches()
        damage.setdefault(source.name, Damage()).check(source.name, corpus.config.max_broken_share)
        if not read.found:
            raise no_text(source.name)


class _SourceReader:
    """Batches of one source from `start` on; adds unreadable records to `damage`, unit by unit."""

    def __init__(self, corpus: Corpus, number: int, start: Place, damage: dict[str, Damage]) -> None:
        self._source, self._number, self._start, self._damage = corpus.sources[number], number, start, damage
        self.found = start.found
        self._pending: list[Document] = []
        self._size = 0

    def batches(self) -> Iterator[ReadBatch]:
        total = self._damage.setdefault(self._source.name, Damage())
        for unit in range(self._start.unit, len(self._source.units)):
            damage = Damage()
            skipped = self._start.record if unit == self._start.unit else 0
            for record, document in enumerate(self._source.units[unit].read(damage)):
                if record >= skipped:
                    self.found += 1
                    self._pending.append(document)
                    self._size += len(document.text)
                if self._size >= BATCH_CHARACTERS or len(self._pending) >= BATCH_DOCUMENTS:
                    yield self._batch(Place(self._number, unit, record + 1, self.found, deepcopy(self._damage)))
            total.merge(damage)
        yield self._batch(Place(self._number + 1, damage=deepcopy(self._damage)))

    def _batch(self, after: Place) -> ReadBatch:
        batch = ReadBatch(self._source.name, self._number, tuple(self._pending), self._size, after)
        self._pending, self._size = [], 0
        return batch
