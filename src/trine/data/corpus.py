"""A corpus: documents of all its sources, split into a training and a held-out part, filtered, streaming.

The split hashes a document's group, never its text. Documents come in the order of sources, of their units and
within each unit. The split of a corpus that is one text file is its end. A training document that duplicates a
held-out one is dropped: held-out documents are passed to the duplicate finder first. Memory is constant, except for
file names and the duplicate finder."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from trine.config.corpus import CorpusConfig, SourceConfig
from trine.data.account import Account, Files, Tally
from trine.data.duplicates import DuplicateFinder, content_digest, signature
from trine.data.filters import FilterCounts, rejection
from trine.data.sources import in_held_out_part, open_source
from trine.data.units import Source, Unit
from trine.records import Document
from trine.runtime.errors import TrineError
from trine.runtime.files import read_errors, sha256_of, sha256_of_file

__all__ = ["Corpus", "Part", "Source", "Unit", "open_corpus"]

Part = Literal["train", "held_out"]
TRAIN: Part = "train"
NEWER = ("separator", "encoding", "delimiter", "quoted")
_PARTS = {"python": "standard_library", "folder": "folders", "data set": "data_sets"}


def open_corpus(config: CorpusConfig) -> "Corpus":
    """List the files of every source of `config`; raises `TrineError` if a source is missing or empty."""
    if not config.all_sources:
        raise TrineError(
            "the corpus is empty: set corpus.folders, corpus.standard_library or corpus.distributions, "
            "or list corpus.sources"
        )
    corpus = Corpus(config, tuple(open_source(source, config.held_out_share) for source in config.all_sources))
    for source in corpus.sources:
        if not source.units:
            raise no_text(source)
    return corpus


class Corpus:
    """The result of `open_corpus`. Each call of `documents` reads the files again.

    Example::

        corpus = open_corpus(CorpusConfig(folders=("texts",)))
        for document in corpus.documents("train"):
            print(document.name, len(document.text))
    """

    def __init__(self, config: CorpusConfig, sources: tuple[Source, ...]) -> None:
        self.config, self.sources = config, sources

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the settings that change documents or their order, and of every file's name and bytes."""
        settings = self.config.model_dump_json(include={"filters", "held_out_share"})
        described = map(_description, self.config.all_sources)
        digest = hashlib.sha256(sha256_of(settings, *described).encode())
        for source in self.sources:
            for unit in source.units:
                contents = [sha256_of_file(path) for path in unit.files]
                name = unit.name.encode("utf-8", "surrogatepass")  # a file may be named in another encoding
                digest.update(sha256_of(name, unit.identity, *contents).encode())
            digest.update(b"end of source")
        return digest.hexdigest()

    @property
    def description(self) -> str:
        """Number of sources and files, their size, and what was passed over, for messages."""
        paths = [path for source in self.sources for unit in source.units for path in unit.files]
        size = sum(map(_size, paths)) / 1e6
        sources = f"{len(self.sources)} source{'s' * (len(self.sources) != 1)}"
        files = f", {len(paths)} files, {size:.1f} MB" if paths else ""  # the size of a data set on the hub is unknown
        passed_over = f"; {self.files.words}" if self.files.words else ""
        return f"{sources}{files}; fingerprint {self.fingerprint[:16]}{passed_over}"

    @property
    def files(self) -> Files:
        """What was found where the sources were looked for."""
        return sum((source.files for source in self.sources), Files())

    def account(self, tallies: Iterable[Tally], counts: FilterCounts) -> Account:
        """What became of every file and of every record, as readers and filters counted them."""
        return Account.of(self.files, tallies, counts)

    def tally(self) -> Tally:
        """A tally for a part of a source: with no share of broken records allowed, the first is an error."""
        return Tally(strict=not self.config.max_broken_share)

    def part_of(self, document: Document) -> str:
        """`train`, or the name a report gives the held-out part: standard_library, packages, folders, data_sets."""
        if not in_held_out_part(document, self.config.held_out_share):
            return TRAIN
        return _PARTS.get(document.source, "packages")

    def documents(
        self, part: Part, counts: FilterCounts | None = None, tallies: dict[str, Tally] | None = None
    ) -> Iterator[Document]:
        """The documents of one part, filtered and each once, in order.

        Filter results are added to `counts`; what became of the other records, of either part, to `tallies` by source.

        Raises `TrineError` at the end of a source without text or with too many unreadable records, and at the end of a
        corpus without training documents.
        """
        finder = DuplicateFinder(self.config.filters)
        counts = FilterCounts() if counts is None else counts
        if part == TRAIN and self.finds_duplicates:
            for _ in self._kept("held_out", finder, FilterCounts(), {}):
                pass
        yield from self._kept(part, finder, counts, {} if tallies is None else tallies)
        if part == TRAIN and not counts.amount("kept").documents:
            raise nothing_to_train_on(self, counts)

    @property
    def finds_duplicates(self) -> bool:
        return self.config.filters.exact_duplicates or self.config.filters.near_duplicates

    def _kept(
        self, part: Part, finder: DuplicateFinder, counts: FilterCounts, tallies: dict[str, Tally]
    ) -> Iterator[Document]:
        for source in self.sources:
            tally = tallies[source.name] = self.tally()
            for document in self._read(source, tally):
                if (self.part_of(document) == TRAIN) != (part == TRAIN):
                    tally.leave_out("held out" if part == TRAIN else "to train on")
                    continue
                reason = rejection(document, self.config.filters) or self._repeated(document, finder)
                counts.add(source.name, reason, document.text)
                if reason is None:
                    yield document

    def _read(self, source: Source, tally: Tally) -> Iterator[Document]:
        found = 0
        for unit in source.units:
            for document in unit.read(tally):
                found += 1
                yield document
        tally.check(source.name, self.config.max_broken_share)
        if not found:
            raise no_text(source)

    def _repeated(self, document: Document, finder: DuplicateFinder) -> str | None:
        if not self.finds_duplicates:
            return None
        filters = self.config.filters
        near = signature(document.text, filters) if filters.near_duplicates else None
        found = finder.find(content_digest(document.text), near)
        return f"{found}_duplicates" if found else None


def _description(source: SourceConfig) -> str:
    """The settings that change documents. Newer ones only where they are set, so that older fingerprints stay."""
    newer = {key for key in NEWER if getattr(source, key) == SourceConfig.model_fields[key].default}
    return source.model_dump_json(exclude={"name", "weight", "folder", "dataset", "streaming", *newer})


def _size(path: Path) -> int:
    with read_errors(path):
        return path.stat().st_size


def no_text(source: Source) -> TrineError:
    found = f" ({source.files.words})" if source.files.words else ""
    return TrineError(
        f"corpus source {source.name} has no text{found}; read are .py, .txt, .md, .jsonl, .ndjson, .csv, .tsv and "
        ".parquet, also as .gz, .bz2, .xz and .zst, and what a source's `files` asks for: files: ['**/*.rst']"
    )


def nothing_to_train_on(corpus: Corpus, counts: FilterCounts) -> TrineError:
    """The reason why there is no training document, given the filter counts."""
    outcomes = sorted({outcome for rows in counts.sources.values() for outcome in rows})
    rejected = {outcome: counts.amount(outcome).documents for outcome in outcomes}
    if rejected:
        return TrineError(f"the filters reject every training document ({rejected}); change corpus.filters")
    documents = sum(1 for source in corpus.sources for unit in source.units for _ in unit.read(Tally()))
    return TrineError(
        f"all of the corpus ({documents} documents) fell into the held-out part, by a hash of their names; "
        "give more files or lower corpus.held_out_share"
    )
