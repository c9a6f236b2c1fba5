"""One thread owns an engine, all others ask it: `EngineWorker` is how a server or a feedback loop shares an `Engine`.

The thread repeats: take what was submitted, run what has to stand between steps (log-probabilities, a swap of
weights), make one step, publish new tokens. Waiting is on conditions, never by polling.
Invariants: weights change only between requests, and every rollout names those that wrote it; a request that fails, or
whose callback raises, fails alone; where the thread itself ends, everything pending fails with a `TrineError`.
"""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trine.engine.checks import score_temperature
from trine.engine.engine import Engine
from trine.engine.failures import all_finished
from trine.engine.figures import EngineFigures, Meter
from trine.engine.future import RolloutFuture, TokenStream
from trine.engine.log_probs import Continuation, pieces
from trine.engine.sampling import Sampling
from trine.engine.values import callback
from trine.model.transformer import Transformer
from trine.records import Rollout
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class _Call:
    """Something to do with the engine between two steps, once `ready`; waiting requests start after it."""

    ready: Callable[[], bool]
    do: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)

    def run(self) -> None:
        try:
            self.future.set_result(self.do())
        except Exception as error:
            self.future.set_exception(error)


class EngineWorker:
    """Shares one engine between threads: every method may be called from any of them, at any time.

    >>> with EngineWorker(Engine(model)) as worker:
    ...     first = worker.submit([1, 2, 3], Sampling(max_new_tokens=4))  # returns at once
    ...     second = worker.submit([4, 5], Sampling(max_new_tokens=6))
    ...     rollouts = [first.result(), second.result()]
    ...     streamed = [token_id for part in worker.stream([1, 2, 3], Sampling(4)) for token_id in part]
    >>> [len(rollout.response_ids) for rollout in rollouts]
    [4, 6]
    >>> streamed == list(rollouts[0].response_ids)
    True

    While the worker is open the engine is its own: direct calls of the engine are refused. Callbacks (`on_tokens`) run
    in the worker's thread, so they must be quick and must not wait for the worker.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()  # guards the four fields below
        self._inbox: deque[RolloutFuture] = deque()
        self._calls: deque[_Call] = deque()
        self._closing = False
        self._ended: TrineError | None = None
        self._live: list[RolloutFuture] = []  # the thread's own, as is the meter
        self._meter = Meter(engine)
        owned = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(owned,), name="EngineWorker", daemon=True)
        self._thread.start()
        owned.wait()
        if self._ended is not None:
            raise self._ended
        atexit.register(self.close)

    # From any thread

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_tokens: Callable[[list[int]], None] | None = None
    ) -> RolloutFuture:
        """Queue a prompt. `on_tokens` is called with new ids as they come.

        Raises `TrineError` at once where prompt, settings or constraint cannot be used, or the worker is closed.
        """
        callback("on_tokens", on_tokens)
        return self._enter(self._engine.make_requests([prompt_ids], [sampling]), on_tokens)[0]

    def stream(self, prompt_ids: Sequence[int], sampling: Sampling, timeout: float | None = None) -> TokenStream:
        """New ids of one answer as they come. Leaving the iterator early cancels the request."""
        return self.submit(prompt_ids, sampling).stream(timeout)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling], *, samples: int = 1
    ) -> list[Rollout]:
        """The rollouts of `Engine.generate`, in order. Where some fail, `GenerationError` carries the others."""
        self._refuse_own_thread()
        futures = self._enter(self._engine.make_requests(prompts, sampling, samples))
        try:
            return all_finished([future.outcome() for future in futures])
        finally:
            for future in futures:  # where the caller was interrupted
                future.cancel()

    def log_probs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """`Engine.log_probs` between steps, a call's tokens at a time, as soon as their pages are free."""
        rows, temperature = self._engine.make_continuations(prompts, responses), score_temperature(temperature)
        calls = [self._scoring(piece, temperature) for piece in pieces(rows)]
        return [found for part in self._call(*calls) for found in part]

    def _scoring(self, rows: Sequence[Continuation], temperature: float) -> "_Call":
        need = max(row.pages for row in rows)
        return _Call(lambda: self._engine.can_score(need), lambda: self._engine.log_probs_of(rows, temperature))

    def swap_weights(self, source: Transformer | Mapping[str, Tensor], *, drain: bool = True) -> str:
        """Take over the weights of `source` between requests; waits until that is done. Their name, as in rollouts.

        With `drain`, running requests finish on the old weights before any waiting request starts on the new ones;
        without it, running requests fail with a `TrineError` that says so.
        """
        admission = self._engine.admission

        def swap() -> str:
            self._engine.fitting_weights(source)  # refused before anybody's request fails for it
            for row in admission.active:
                row.request.fail(TrineError("the weights were swapped while this request ran; submit it again"))
            self._engine.load(source)
            return self._engine.weights_name

        return self._call(_Call(lambda: not (drain and admission.active), swap))[0]

    @property
    def weights_name(self) -> str:
        """The hash of the weights that the next request to start will run on, unless they are swapped before."""
        return self._engine.weights_name

    @property
    def figures(self) -> EngineFigures:
        """How the engine is doing: as of the last step, but for what was submitted since."""
        return self._meter.figures(submitted=len(self._inbox))

    def close(self) -> None:
        """Stop: what is not finished fails with a `TrineError`. Afterwards the engine may be used directly again."""
        self._refuse_own_thread()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "EngineWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(
        self, requests: Sequence[Any], on_tokens: Callable[[list[int]], None] | None = None
    ) -> list[RolloutFuture]:
        futures = [RolloutFuture(request, on_tokens, self._refuse_own_thread) for request in requests]
        with self._changed:
            self._refuse_closed()
            self._inbox.extend(futures)
            self._changed.notify_all()
        return futures

    def _call(self, *calls: "_Call") -> list[Any]:
        """What the calls, which no other comes between, return."""
        self._refuse_own_thread()
        with self._changed:
            self._refuse_closed()
            self._calls.extend(calls)
            self._changed.notify_all()
        return [call.future.result() for call in calls]

    def _refuse_closed(self) -> None:
        if self._ended is not None or self._closing:
            raise self._ended or TrineError("the EngineWorker is closed; make a new one")

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise TrineError("a callback of the EngineWorker waits for the worker itself; do this in another thread")

    # The thread

    def _run(self, owned: threading.Event) -> None:
        error = TrineError("the EngineWorker was closed before this was finished")
        try:
            with self._engine.one_thread:
                owned.set()
                try:
                    while self._take():
                        self._step(may_start=self._call_what_is_ready())
                finally:
                    self._empty_engine()
        except BaseException as raised:
            error = TrineError(f"the thread of the EngineWorker ended: {raised!r}; make a new EngineWorker")
            error.__cause__ = raised
        finally:
            self._end(error)
            owned.set()

    def _take(self) -> bool:
        """Wait for something to do, and queue new requests in the engine; False when it is time to close.

        While a request lives the thread goes from step to step, so that a cancelled one needs no waking.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._inbox or self._calls or self._live)
            while self._inbox:
                future = self._inbox.popleft()
                self._live.append(future)
                self._engine.enqueue(future.request)
            return not self._closing

    def _call_what_is_ready(self) -> bool:
        """Run the first call if it can be; beside running requests one for each step, so that they move on.

        Whether waiting requests may start: not before a call that waits for running ones to finish.
        """
        while self._calls and self._calls[0].ready():
            self._calls[0].run()
            with self._changed:
                self._calls.popleft()
            if self._live:
                break
        return not self._calls or self._calls[0].ready()

    def _step(self, may_start: bool) -> None:
        began = time.perf_counter()
        try:
            self._engine.step(admit=may_start)
        except Exception:
            # The engine has failed the requests that it ran. If it ran none, the next step would raise the same.
            if not any(future.request.done for future in self._live):
                raise
        unstarted = [future for future in self._live if not future.published]
        tokens = sum(future.publish() for future in self._live)
        self._live = [future for future in self._live if not future.done]
        self._engine.admission.retire()  # rows whose callback raised
        ended = time.perf_counter()
        self._meter.add(tokens, ended - began, [ended - each.submitted for each in unstarted if each.published])

    def _empty_engine(self) -> None:
        for future in self._live:
            future.request.cancel()
        self._engine.admission.waiting.clear()
        self._engine.admission.retire()
        self._meter.add(0, 0.0, [])

    def _end(self, error: TrineError) -> None:
        """Everything pending fails with `error`, and so does what comes later."""
        with self._changed:
            self._ended = error
            futures, calls = [*self._live, *self._inbox], list(self._calls)
            self._live, self._inbox = [], deque()
            self._calls.clear()
        for future in futures:
            future.resolve(error)
        for call in calls:
            if not call.future.done():
                call.future.set_exception(error)
