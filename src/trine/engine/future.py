"""An answer that another thread is writing: wait for it, read it as it comes, or give it up."""

import threading
import time
from collections.abc import Callable, Iterator

from trine.engine.request import Request
from trine.records import Rollout
from trine.runtime.errors import TrineError


class RolloutFuture:
    """The handle of one request that an `EngineWorker` runs; all methods may be called from any thread.

    >>> with EngineWorker(Engine(model)) as worker:
    ...     future = worker.submit([1, 2, 3], Sampling(max_new_tokens=4))
    ...     rollout = future.result(timeout=60)
    >>> len(rollout.response_ids)
    4
    """

    def __init__(
        self, request: Request, on_tokens: Callable[[list[int]], None] | None, check_may_wait: Callable[[], None]
    ) -> None:
        self.request, self.submitted = request, time.perf_counter()
        self.published = 0
        self._on_tokens, self._check_may_wait = on_tokens, check_may_wait
        self._changed = threading.Condition()
        self._outcome: Rollout | TrineError | None = None

    @property
    def done(self) -> bool:
        return self._outcome is not None

    def result(self, timeout: float | None = None) -> Rollout:
        """Wait for the whole answer. Raises `TrineError` where the request failed or was cancelled, and `TimeoutError`
        after `timeout` seconds, which leave it running."""
        outcome = self.outcome(timeout)
        if isinstance(outcome, TrineError):
            raise outcome
        return outcome

    def outcome(self, timeout: float | None = None) -> Rollout | TrineError:
        """Wait for the whole answer, or for why there is none."""
        self._check_may_wait()
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no answer within {timeout} seconds; the request goes on")
            assert self._outcome is not None
            return self._outcome

    def stream(self, timeout: float | None = None) -> "TokenStream":
        """New ids as they come, `timeout` seconds apart at the most. Leaving the iterator early cancels the request."""
        self._check_may_wait()
        return TokenStream(self, timeout)

    def wait_beyond(self, seen: int, timeout: float | None) -> tuple[list[int], bool]:
        """The ids after the first `seen`, once there are any or the request is done, and whether it is."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done or self.published > seen, timeout):
                raise TimeoutError(f"no new token within {timeout} seconds; the request is cancelled")
            return self.request.ids[seen : self.published], self.done

    def cancel(self) -> None:
        """Give the request up; what is done stays done."""
        self.request.cancel()

    # What the worker's thread calls

    def publish(self) -> int:
        """Hand on what the request has come to; the number of new tokens. A callback that raises fails this request."""
        new = self.request.ids[self.published :]
        if new and self._on_tokens is not None:
            try:
                self._on_tokens(new)
            except BaseException as error:  # whatever it is, it is this request's alone: sys.exit() too
                self.resolve(TrineError(f"the request's on_tokens raised {error!r}"))
        with self._changed:
            self.published += len(new)
            self._changed.notify_all()
        if self.request.done:
            self.resolve(None)
        return len(new)

    def resolve(self, error: TrineError | None) -> None:
        """Done: with `error`, or with what the request came to. The first outcome stays."""
        if self.done:
            return
        if error is not None:
            self.request.cancel()
        outcome = error or self.request.outcome()
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()


class TokenStream(Iterator[list[int]]):
    """The ids of one answer as they come. Closed, or dropped at any moment, even before its first ids, it cancels the
    request, unless that is finished."""

    def __init__(self, future: RolloutFuture, timeout: float | None) -> None:
        self._future, self._timeout = future, timeout
        self._seen, self._closed = 0, False

    def __next__(self) -> list[int]:
        if self._closed:
            raise StopIteration
        try:
            new, done = self._future.wait_beyond(self._seen, self._timeout)
            self._seen += len(new)
            if new:
                return new
            if done:
                self._future.result()
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Read no further."""
        self._closed = True
        self._future.cancel()

    def __del__(self) -> None:
        self.close()
