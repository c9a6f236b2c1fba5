"""Writing token shards: reads a corpus once, in several processes, and can be interrupted at any time.

There are two steps. *Encoding* appends to files in a temporary folder, in chunks: after each chunk the files are
flushed to disk, and `progress.json` records their lengths and the place in the corpus, so that a restart loses at most
one chunk and gives the same bytes as an uninterrupted run. *Finishing* removes duplicates over the whole corpus,
held-out parts first (so that a training document that duplicates a held-out one is removed), copies the rest and
renames the folder.

Memory is constant except for duplicates (measured): about 90 bytes per document for its digest, and with near
duplicates, at 256 permutations, about 6 KB more for its signature and its index entries.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trine.data.corpus import Corpus, nothing_to_train_on
from trine.data.corpus_reader import Place, ReadBatch, read_from
from trine.data.duplicates import DuplicateFinder
from trine.data.encoding import EncodedBatch, Encoding, encoded
from trine.data.filters import KEPT, Amount, FilterCounts
from trine.data.shards import DESCRIPTION, DOCUMENT, MAKING, TRAIN, Shards, mapped
from trine.runtime.errors import TrineError
from trine.runtime.files import disk_errors, read_json, sha256_of, sha256_of_file, sync_folder, write_folder, write_json
from trine.runtime.progress import Bar, progress_bar, say
from trine.runtime.signals import stop_request

FORMAT = 1
CHUNK = 32_000_000
DOCUMENTS_AT_A_TIME = 1024
LISTED_BROKEN = 100


@dataclass(frozen=True)
class Target:
    """The tokenizer (fingerprint and size) and encoding of the shards."""

    tokenizer: str
    vocab_size: int
    encoding: Encoding

    @property
    def dtype(self) -> str:
        """The smallest integer type that holds the ids."""
        return "<u2" if self.vocab_size <= 2**16 else "<u4"

    def fingerprint(self, corpus: Corpus) -> str:
        """A hash of everything that the shards of `corpus` depend on."""
        return sha256_of(corpus.fingerprint, self.tokenizer, str(self.vocab_size), str(FORMAT))


def make_shards(folder: Path, corpus: Corpus, target: Target, workers: int, chunk: int = CHUNK) -> Shards:
    """The shards of `corpus` in `folder`; written if they are not there, resuming an interrupted attempt.

    `chunk`: characters between two checkpoints. After a stop request, a checkpoint is written first.
    """
    fingerprint = target.fingerprint(corpus)
    aside = folder.with_name(f".{folder.name}.building")
    if _fingerprint_in(folder / DESCRIPTION) != fingerprint:
        with Building(aside, fingerprint, target) as building:
            _encode(building, corpus, target, workers, chunk)
            _finish(building, folder, corpus, target, workers)
    shutil.rmtree(aside, ignore_errors=True)
    return Shards(folder, tuple(source.weight for source in corpus.sources))  # weights do not affect the encoding


def _encode(building: "Building", corpus: Corpus, target: Target, workers: int, chunk: int) -> None:
    """Encode the rest of the corpus into `building`."""
    units = [len(source.units) for source in corpus.sources]
    before = np.cumsum([0, *units]).tolist()

    def units_before(place: Place) -> int:
        return int(before[place.source]) + place.unit

    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar("shards", sum(units), units_before(building.place)))
        shown = _Shown(bar)
        batches = stack.enter_context(closing(encoded(read_from(corpus, building.place), target.encoding, workers)))
        for batch, result in batches:
            passed = units_before(batch.after) - units_before(building.place)
            building.append(batch, result, [corpus.part_of(document) for document in batch.documents])
            shown.advance(passed, batch.size)
            if building.unsaved >= chunk or stop_request.received is not None:
                building.save()
                stop_request.check()
    building.save()


class _Shown:
    """Shows megabytes and megabytes per second on the progress bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._size, self._started = bar, 0, time.perf_counter()

    def advance(self, units: int, size: int) -> None:
        self._size += size
        rate = self._size / 1e6 / (time.perf_counter() - self._started)
        self._bar.advance(units, note=f"{self._size / 1e6:.0f} MB, {rate:.1f} MB/s")


class Building:
    """The temporary folder of unfinished shards. As a context: resumes at the last checkpoint, closes files after."""

    def __init__(self, folder: Path, fingerprint: str, target: Target) -> None:
        self.folder, self._fingerprint, self._dtype = folder, fingerprint, target.dtype
        filters = target.encoding.filters
        self._widths = {
            "ids": np.dtype(target.dtype).itemsize,
            "documents": DOCUMENT.itemsize,
            "signatures": 4 * filters.permutations * filters.near_duplicates,
        }
        self.place, self.counts, self.seconds = Place(), FilterCounts(), 0.0
        self.lengths: dict[str, dict[str, int]] = {}
        self.unsaved = 0
        self._files: dict[str, dict[str, IO[bytes]]] = {}
        self._opened = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds spent, including earlier attempts up to their last checkpoint."""
        return self.seconds + time.perf_counter() - self._opened

    def __enter__(self) -> "Building":
        with disk_errors(self.folder):
            self._begin()
        return self

    def _begin(self) -> None:
        record = self._record()
        if record is not None:
            self._resume(record)
        else:
            if self.folder.exists():
                say(f"{self.folder}: an unfinished encoding that is damaged, or of other settings, is started over")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the files. What they could not write is after the last checkpoint, and written again on resuming."""
        for file in self._all_files():
            with suppress(OSError):
                file.close()

    def _record(self) -> dict[str, Any] | None:
        """The last checkpoint of the same encoding; None if there is none, or its files are damaged."""
        try:
            record: dict[str, Any] = read_json(self.folder / "progress.json")
            if record.pop("sha256") != _digest(record):
                return None
            whole = all(self._holds(part, counts) for part, counts in record["lengths"].items())
            return record if whole and record["fingerprint"] == self._fingerprint else None
        except (TrineError, OSError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def _holds(self, part: str, lengths: dict[str, int]) -> bool:
        """Whether the files of `part` are as long as a checkpoint says."""
        sizes = {
            name: lengths["tokens" if name == "ids" else "documents"] * width for name, width in self._widths.items()
        }
        return all((self.folder / part / f"{name}.bin").stat().st_size >= size for name, size in sizes.items() if size)

    def _resume(self, record: dict[str, Any]) -> None:
        self.place, self.seconds = Place.from_json(record["place"]), record["seconds"]
        self.counts = FilterCounts.from_json(record["counts"])
        self.lengths = record["lengths"]
        for part in self.folder.iterdir():
            if part.is_dir() and part.name not in self.lengths:
                shutil.rmtree(part)
        for part_name in self.lengths:
            for name, file in self._open(part_name).items():
                file.truncate(self._size(part_name, name))

    def _size(self, part: str, name: str) -> int:
        """Size in bytes of a file of `part`."""
        return self.lengths[part]["tokens" if name == "ids" else "documents"] * self._widths[name]

    def _open(self, part: str) -> dict[str, IO[bytes]]:
        (self.folder / part).mkdir(exist_ok=True)
        names = [name for name, width in self._widths.items() if width]
        self._files[part] = {name: open(self.folder / part / f"{name}.bin", "ab") for name in names}  # noqa: SIM115
        return self._files[part]

    def _all_files(self) -> Iterator[IO[bytes]]:
        for files in self._files.values():
            yield from files.values()

    def append(self, batch: ReadBatch, result: EncodedBatch, parts: Sequence[str]) -> None:
        """Append the kept documents of a batch, each to its part (`parts`: one for every document of the batch)."""
        kept_parts = np.array(parts)[result.kept] if parts else np.empty(0, str)
        for part in sorted(set(kept_parts.tolist())):
            mine = kept_parts == part
            ids = result.ids[np.repeat(mine, result.documents["tokens"])]
            with disk_errors(self.folder):
                self._append(part, ids, result.documents[mine], result.signatures[mine], batch.source_number)
        self.counts.merge(result.counts)
        self.place = batch.after
        self.unsaved += batch.size

    def _append(
        self,
        part: str,
        ids: NDArray[np.uint32],
        documents: NDArray[np.void],
        signatures: NDArray[np.uint32],
        source: int,
    ) -> None:
        files = self._files.get(part) or self._open(part)
        lengths = self.lengths.setdefault(part, {"tokens": 0, "documents": 0})
        described = np.zeros(len(documents), DOCUMENT)
        for name in ("tokens", "bytes", "signed", "digest"):
            described[name] = documents[name]
        described["first"] = lengths["tokens"] + np.cumsum(documents["tokens"]) - documents["tokens"]
        described["source"] = source
        files["ids"].write(ids.astype(self._dtype).tobytes())
        files["documents"].write(described.tobytes())
        if "signatures" in files:
            files["signatures"].write(signatures.astype("<u4").tobytes())
        lengths["tokens"] += len(ids)
        lengths["documents"] += len(documents)

    def save(self) -> None:
        """Write a checkpoint: flush the files to disk, then record their lengths."""
        with disk_errors(self.folder):
            for file in self._all_files():
                file.flush()
                os.fsync(file.fileno())
            for part in self._files:
                sync_folder(self.folder / part)
            sync_folder(self.folder)
        self.unsaved = 0
        record: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "place": self.place.as_json(),
            "lengths": self.lengths,
        }
        counts = {"counts": self.counts.as_json(), "seconds": self.elapsed()}
        record |= counts
        write_json(self.folder / "progress.json", record | {"sha256": _digest(record)})


def _digest(record: dict[str, Any]) -> str:
    """Of a checkpoint's contents: a damaged one would pass over text."""
    return sha256_of(json.dumps(record, sort_keys=True))


def _finish(building: Building, folder: Path, corpus: Corpus, target: Target, workers: int) -> None:
    """Remove duplicates and move the shards to `folder`."""
    parts = sorted(building.lengths, key=lambda name: (name == TRAIN, name))
    kept = _without_duplicates(building, parts, corpus, target)
    if TRAIN not in parts or not kept[TRAIN].any():
        only_held_out = bool(parts) and TRAIN not in parts
        raise nothing_to_train_on(corpus, FilterCounts() if only_held_out else building.counts)
    parts = [part for part in parts if kept[part].any()]

    def fill(aside: Path) -> None:
        described = {
            part: _copy_kept(building.folder / part, aside / part, kept[part], target.dtype, len(corpus.sources))
            for part in parts
        }
        write_json(aside / DESCRIPTION, _description(building, corpus, target, described))
        seconds = building.elapsed()
        rate = sum(row["seen"]["bytes"] for row in building.counts.as_json().values()) / 1e6 / seconds
        write_json(aside / MAKING, {"seconds": seconds, "megabytes_per_second": rate, "workers": workers})

    write_folder(folder, fill)


def _without_duplicates(
    building: Building, parts: Sequence[str], corpus: Corpus, target: Target
) -> dict[str, NDArray[np.bool_]]:
    """For each part, which documents to keep; counts of the others are moved to duplicates."""
    filters = target.encoding.filters
    kept = {part: np.ones(building.lengths[part]["documents"], np.bool_) for part in parts}
    if not corpus.finds_duplicates:
        return kept
    finder = DuplicateFinder(filters)
    with progress_bar("duplicates", sum(map(len, kept.values()))) as bar:
        for part in parts:
            for first, documents, signatures in _documents(building.folder / part, filters.permutations):
                for number, document in enumerate(documents):
                    sketch = signatures[number] if signatures is not None and document["signed"] else None
                    found = finder.find(document["digest"].tobytes(), sketch)
                    if found:
                        kept[part][first + number] = False
                        source = corpus.sources[int(document["source"])].name
                        _move(building.counts, source, f"{found}_duplicates", int(document["bytes"]))
                    bar.advance_or_stop()
    return kept


def _documents(folder: Path, permutations: int) -> Iterator[tuple[int, NDArray[np.void], NDArray[np.uint32] | None]]:
    """Yield (number of the first, documents, signatures) of a part, a few documents at a time."""
    first = 0
    with open(folder / "documents.bin", "rb") as file:
        signature_path = folder / "signatures.bin"
        count = os.fstat(file.fileno()).st_size // DOCUMENT.itemsize
        width = count * permutations
        signatures = mapped(signature_path, np.dtype("<u4"), width) if signature_path.exists() else None
        while len(documents := np.fromfile(file, DOCUMENT, DOCUMENTS_AT_A_TIME)):
            end = first + len(documents)
            part = None if signatures is None else signatures.reshape(-1, permutations)[first:end]
            yield first, documents, part
            first = end


def _move(counts: FilterCounts, source: str, outcome: str, size: int) -> None:
    """Move a document from `kept` to another outcome."""
    counts.merge(FilterCounts({source: {outcome: Amount(1, size), KEPT: Amount(-1, -size)}}))


def _copy_kept(before: Path, after: Path, kept: NDArray[np.bool_], dtype: str, sources: int) -> dict[str, Any]:
    """Copy the kept documents of a part, a few at a time; returns its description."""
    after.mkdir()
    tokens, size, width = 0, 0, np.dtype(dtype).itemsize
    source_documents = np.zeros(sources, np.int64)
    with (
        open(before / "ids.bin", "rb") as ids_from,
        open(before / "documents.bin", "rb") as documents_from,
        open(after / "ids.bin", "wb") as ids_to,
        open(after / "documents.bin", "wb") as documents_to,
    ):
        for first in range(0, len(kept), DOCUMENTS_AT_A_TIME):
            documents = np.fromfile(documents_from, DOCUMENT, DOCUMENTS_AT_A_TIME)
            mine = kept[first : first + len(documents)]
            for length, keep in zip((documents["tokens"] * width).tolist(), mine.tolist(), strict=True):
                data = ids_from.read(length)
                if keep:
                    ids_to.write(data)
            documents = documents[mine]
            documents["first"] = tokens + np.cumsum(documents["tokens"]) - documents["tokens"]
            documents_to.write(documents.tobytes())
            tokens += int(documents["tokens"].sum())
            size += int(documents["bytes"].sum())
            source_documents += np.bincount(documents["source"], minlength=sources)
    digests = {path.name: sha256_of_file(path) for path in sorted(after.iterdir())}
    return {"tokens": tokens, "bytes": size, "source_documents": source_documents.tolist(), "sha256": digests}


def _description(
    building: Building, corpus: Corpus, target: Target, parts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The contents of `shards.json`, the same however often writing was interrupted."""
    tallies = building.place.tallies
    return {
        "fingerprint": target.fingerprint(corpus),
        "format": FORMAT,
        "corpus": corpus.fingerprint,
        "tokenizer": target.tokenizer,
        "dtype": target.dtype,
        "sources": [{"name": source.name, "weight": source.weight} for source in corpus.sources],
        "parts": parts,
        "outcomes": building.counts.as_json(),
        "records": {name: {"seen": each.seen, "broken": each.broken} for name, each in tallies.items()},
        "account": corpus.account(tallies.values(), building.counts).as_json(),
        "broken": [line for each in tallies.values() for line in each.listed][:LISTED_BROKEN],
    }


def _fingerprint_in(path: Path) -> str | None:
    return str(read_json(path)["fingerprint"]) if path.exists() else None
