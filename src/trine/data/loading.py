"""Prefetching of batches in a background thread, in order."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")
POLL_SECONDS = 0.05


class Prefetcher(Generic[Made]):
    """Calls `make(step)` up to `ahead` steps in advance, for steps before `end`.

    Example::

        with Prefetcher(make_batch) as batches:
            for step in range(100):
                train_on(batches.get(step))

    Gives the same values as calling `make` directly; exceptions are raised by `get`. `close`, or the end of the
    context, ends the thread. `waiting_seconds`: total time that `get` has waited.
    """

    def __init__(self, make: Callable[[int], Made], ahead: int = 4, end: int | None = None) -> None:
        self._make, self._ahead, self._end = make, ahead, end
        self._next = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._made: queue.Queue[Made | BaseException] = queue.Queue(ahead)
        self.waiting_seconds = 0.0

    def get(self, step: int) -> Made:
        """The value of `make(step)`; the following steps are prefetched. Any other step restarts prefetching there."""
        if step != self._next or self._thread is None:
            self.close()
            self._start(step)
        started = time.perf_counter()
        made = self._made.get()
        self.waiting_seconds += time.perf_counter() - started
        if isinstance(made, BaseException):
            self.close()
            raise made
        self._next = step + 1
        return made

    def close(self) -> None:
        """End the thread; `get` starts another."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._thread, self._next = None, -1

    def __enter__(self) -> "Prefetcher[Made]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, step: int) -> None:
        self._stop, self._made = threading.Event(), queue.Queue(self._ahead)
        arguments = (step, self._stop, self._made)
        self._thread = threading.Thread(target=self._work, args=arguments, name="batches ahead", daemon=True)
        self._thread.start()

    def _work(self, step: int, stop: threading.Event, made: "queue.Queue[Made | BaseException]") -> None:
        while not stop.is_set() and step != self._end:
            try:
                value: Made | BaseException = self._make(step)
            except BaseException as error:
                value = error
            if not _put(made, value, stop) or isinstance(value, BaseException):
                return
            step += 1


def _put(made: "queue.Queue[Made | BaseException]", value: Made | BaseException, stop: threading.Event) -> bool:
    """Put `value` into the queue, waiting for space; False if the thread has to end."""
    while not stop.is_set():
        try:
            made.put(value, timeout=POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
