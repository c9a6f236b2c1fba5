"""An engine is one thread's at a time. A second thread is refused at once: its call would mix into a running step.

Two nested rights: a session (`with one_thread`) keeps other threads out between the steps of a batch or for the life of
an `EngineWorker`; a call (`with one_thread.call()`) is a step or what must not come into the middle of one. The thread
inside may begin calls in its session, but no call within a call: a signal handler or finalizer that runs in the middle
of a step is refused as another thread is.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trine.runtime.errors import TrineError


class OneThread:
    """A context that the thread inside may enter again, and that every other thread is refused from."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._calling = False

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise TrineError(
                "this Engine is in use by another thread; to share it between threads, give it to "
                "trine.engine.worker.EngineWorker(engine) and call the worker"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def call(self) -> Iterator[None]:
        """One undivided use of the engine."""
        with self:
            if self._calling:
                raise TrineError(
                    "this Engine is in the middle of a step, which a signal handler or finalizer of the same thread "
                    "cannot join; call it when the step is over, or share it through trine.engine.worker.EngineWorker"
                )
            try:
                self._calling = True
                yield
            finally:
                self._calling = False
