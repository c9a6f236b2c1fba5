"""Which requests run: first come, first served, as soon as a row and all pages they can need are free.

A row owns its pages before it starts, so a started row always finishes. Where the first in line needs more pages than
are free, later requests that fit may overtake it, so that a large request does not hold up small ones; but no request
is overtaken more than `MAX_OVERTAKEN` times, so that small ones do not hold up a large one for ever. A finished row's
full pages stay known by their digests, for later prompts that begin alike.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from trine.engine.pages import PAGE, PagePool, page_digests
from trine.engine.request import Request
from trine.engine.rows import Row
from trine.runtime.errors import TrineError

MAX_OVERTAKEN = 16  # later requests that may start before one that waits for memory
LOOK_AHEAD = 64  # waiting requests that are looked at, so that a step's cost does not grow with the line


class Admission:
    """The queue of waiting requests, the active rows (at most `rows`, in the order they started), and their pages."""

    def __init__(self, pool: PagePool, rows: int) -> None:
        self.pool, self.rows = pool, rows
        self.waiting: deque[Request] = deque()
        self.active: list[Row] = []
        self.prefix_hits = 0  # pages of prompts that were found computed

    @property
    def reading(self) -> list[Row]:
        """The rows whose prompts are not read to their ends."""
        return [row for row in self.active if row.reading]

    def admit(self, weights: str) -> None:
        """Start what has room now; `weights` will write the answers."""
        for request in [each for each in islice(self.waiting, LOOK_AHEAD) if each.done]:
            self.waiting.remove(request)
        while len(self.active) < self.rows and (row := self._next_row()) is not None:
            row.request.weights = weights
            self.active.append(row)
        if self.waiting and not self.active:
            free = f"{self.pool.available} of {self.pool.pages} pages are free"
            self.waiting.popleft().fail(TrineError(f"{free} and no row will free more; raise cache_bytes"))

    def _next_row(self) -> Row | None:
        """The first request in line that fits, unless one before it has been overtaken too often; None if none does."""
        passed: list[Request] = []
        for request in islice(self.waiting, LOOK_AHEAD):
            if (row := self._start(request)) is not None:
                self.waiting.remove(request)
                for each in passed:
                    each.overtaken += 1
                return row
            passed.append(request)
            if request.overtaken >= MAX_OVERTAKEN:
                break
        return None

    def _start(self, request: Request) -> Row | None:
        """None where there is no room yet; the prefix that an earlier prompt has computed is shared."""
        if request.pages_needed - len(request.digests) > self.pool.available:
            return None
        shared = self.pool.known_prefix(request.digests)
        pages = self.pool.acquire(shared, request.pages_needed - len(shared))
        if pages is None:
            return None
        self.pool.remember(pages, request.digests)
        self.prefix_hits += len(shared)
        return Row(request, pages, len(shared) * PAGE)

    def retire(self) -> None:
        """Rows whose requests are done give their pages back."""
        gone = [row for row in self.active if row.request.done]  # looked at once: others may be cancelled meanwhile
        if not gone:
            return
        started, self.active = self.active, [row for row in self.active if row not in gone]
        for row in gone:
            if row.reading:
                self._hand_over(row, started[started.index(row) + 1 :])
            ids = (*row.request.prompt_ids, *row.request.ids)[: row.decoding.position]
            self.pool.remember(row.page_numbers, page_digests(ids))
            self.pool.release(row.page_numbers)

    def _hand_over(self, row: Row, later: Sequence[Row]) -> None:
        """`row` leaves with its prompt half read: later rows compute the pages that they hoped to share with it."""
        read = row.decoding.position // PAGE
        self.pool.unlearn(row.page_numbers[read:])
        for other in later:
            if row.page_numbers[read] in other.page_numbers[read : read + 1]:
                other.decoding.position = min(other.decoding.position, read * PAGE)
                self.pool.remember(other.page_numbers, other.request.digests)

    def abandon(self, error: BaseException) -> None:
        """A call of the model failed half-way: the active rows fail, and what is in the pages is not trusted."""
        self.pool.forget()
        for row in self.active:
            row.request.fail(TrineError(f"the step of the engine that ran this request failed: {error!r}"))
            self.pool.release(row.page_numbers)
        self.active = []
