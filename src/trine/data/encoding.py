"""Parallel encoding of documents to token ids, in order; the result does not depend on the number of processes.

The main process reads; workers filter, hash and encode one batch at a time. A worker is a fresh interpreter that never
imports PyTorch. It belongs to one thread of the main process, which sends it a batch and waits, so at most one batch
per worker is in progress; results are yielded in order. A worker exits when its pipe closes, however the main process
ended.
"""

import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.config.corpus import FilterConfig
from trine.data.duplicates import content_digest, signature
from trine.data.filters import FilterCounts, rejection
from trine.records import Document, EncodeArray
from trine.runtime.errors import TrineError

# Starting a worker takes about half a second, which does not pay off for less text than this (characters).
SMALL_CORPUS = 8_000_000
DIGEST_BYTES = 16

ENCODED_DOCUMENT = np.dtype([("tokens", "<i8"), ("bytes", "<i8"), ("signed", "u1"), ("digest", "u1", DIGEST_BYTES)])


@dataclass(frozen=True)
class Encoding:
    """Everything that determines the encoding. `make_encode` is sent to the workers, which call it."""

    make_encode: Callable[[], EncodeArray]
    end_of_text: int
    filters: FilterConfig


@dataclass(frozen=True)
class EncodedBatch:
    """`ids` of the documents that were kept, each closed by end-of-text, one after the other.

    `documents` [kept] of `ENCODED_DOCUMENT`, with digests of zeros unless exact duplicates are removed;
    `signatures` [kept, permutations], or [kept, 0] unless near duplicates are removed (zeros for a document without
    one, whose `signed` is 0); `kept`: a flag for each input document.
    """

    ids: NDArray[np.uint32]
    documents: NDArray[np.void]
    signatures: NDArray[np.uint32]
    kept: NDArray[np.bool_]
    counts: FilterCounts


class Batched(Protocol):
    """A batch of documents of one source."""

    @property
    def source(self) -> str: ...

    @property
    def documents(self) -> Sequence[Document]: ...

    @property
    def size(self) -> int:
        """Total number of characters."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=Batched)


def encode_batch(encoding: Encoding, encode: EncodeArray, source: str, documents: Sequence[Document]) -> EncodedBatch:
    """Filter, digest and encode documents of the source called `source`."""
    collected = _Collected(encoding, encode)
    counts = FilterCounts()
    kept = np.zeros(len(documents), np.bool_)
    for index, document in enumerate(documents):
        reason = rejection(document, encoding.filters)
        counts.add(source, reason, document.text)
        if reason is None:
            kept[index] = True
            collected.add(document.text)
    return EncodedBatch(*collected.arrays(), kept, counts)


@dataclass
class _Collected:
    """Collects the arrays of an `EncodedBatch`."""

    encoding: Encoding
    encode: EncodeArray
    ids: list[NDArray[np.uint32]] = field(default_factory=list)
    documents: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    signatures: list[NDArray[np.uint32]] = field(default_factory=list)

    def add(self, text: str) -> None:
        ids = self.encode(text)
        self.ids += [ids, np.array([self.encoding.end_of_text], np.uint32)]
        filters = self.encoding.filters
        sketch = signature(text, filters) if filters.near_duplicates else None
        if filters.near_duplicates:
            self.signatures.append(np.zeros(filters.permutations, np.uint32) if sketch is None else sketch)
        size = len(text.encode("utf-8", "replace"))
        digest = content_digest(text) if filters.exact_duplicates else bytes(DIGEST_BYTES)
        self.documents.append((len(ids) + 1, size, sketch is not None, digest))

    def arrays(self) -> tuple[NDArray[np.uint32], NDArray[np.void], NDArray[np.uint32]]:
        documents = np.zeros(len(self.documents), ENCODED_DOCUMENT)
        for index, (tokens, size, signed, digest) in enumerate(self.documents):
            documents[index] = tokens, size, signed, np.frombuffer(digest, np.uint8)
        width = self.encoding.filters.permutations if self.encoding.filters.near_duplicates else 0
        signatures = np.array(self.signatures, np.uint32).reshape(len(documents), width)
        return np.concatenate([np.empty(0, np.uint32), *self.ids]), documents, signatures


def encoded(
    batches: Iterable[AnyBatch], encoding: Encoding, workers: int
) -> Generator[tuple[AnyBatch, EncodedBatch], None, None]:
    """Yield every batch with its encoding, in order.

    Runs in this process with one worker or fewer than `SMALL_CORPUS` characters in all, otherwise in `workers`
    processes with about two batches per worker in memory.
    """
    batches = iter(batches)
    head: list[AnyBatch] = []
    size = 0
    if workers > 1:
        for batch in batches:
            head.append(batch)
            size += batch.size
            if size >= SMALL_CORPUS:
                yield from _in_workers(chain(head, batches), encoding, workers)
                return
    encode = encoding.make_encode()
    for batch in chain(head, batches):
        yield batch, encode_batch(encoding, encode, batch.source, batch.documents)


def _in_workers(
    batches: Iterable[AnyBatch], encoding: Encoding, workers: int
) -> Iterator[tuple[AnyBatch, EncodedBatch]]:
    waiting: deque[tuple[AnyBatch, Future[EncodedBatch]]] = deque()
    with ExitStack() as stack:
        crew = [stack.enter_context(Worker(encoding)) for _ in range(workers)]
        pool = stack.enter_context(_Pool(crew))
        for batch in batches:
            waiting.append((batch, pool.encode(batch.source, batch.documents)))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


class _Pool:
    """A thread for each worker; a batch goes to whichever is free."""

    def __init__(self, crew: Sequence["Worker"]) -> None:
        free = deque(crew)
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(len(crew), initializer=lambda: setattr(self._own, "worker", free.popleft()))

    def encode(self, source: str, documents: Sequence[Document]) -> "Future[EncodedBatch]":
        return self._threads.submit(lambda: self._own.worker.encode(source, documents))

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)


class Worker:
    """A process that encodes one batch at a time; ends with the context."""

    def __init__(self, encoding: Encoding) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, encoding), daemon=True)
        self._process.start()
        theirs.close()

    def encode(self, source: str, documents: Sequence[Document]) -> EncodedBatch:
        """`encode_batch` in the process. Raises `TrineError` when it fails or dies there."""
        try:
            self._pipe.send((source, documents))
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise TrineError(
                f"an encoding worker died (exit code {self._process.exitcode}; -9: killed, often for lack of memory); "
                "run the same command again to resume, with hardware.threads 1 to use one process"
            ) from None
        if isinstance(answer, str):
            raise TrineError(f"a worker failed to encode documents of {source}:\n{answer}")
        assert isinstance(answer, EncodedBatch)
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join()


def _work(pipe: Connection, encoding: Encoding) -> None:
    """The loop of a worker, until the pipe closes. Signals to the process group are handled by the main process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    encode = encoding.make_encode()
    while True:
        try:
            source, documents = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: EncodedBatch | str = encode_batch(encoding, encode, source, documents)
        except BaseException:  # a panic in Rust is not an Exception
            answer = traceback.format_exc()
        try:
            pipe.send(answer)
        except OSError:
            return
