"""An engine is one thread's at a time. A second thread is refused at once: its call would mix into a running step."""

import threading

from trine.runtime.errors import TrineError


class OneThread:
    """A context that the thread inside may enter again, and that every other thread is refused from."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise TrineError(
                "this Engine is in use by another thread; to share it between threads, give it to "
                "trine.engine.worker.EngineWorker(engine) and call the worker"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()
