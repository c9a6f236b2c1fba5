"""Which requests run: first come, first served, as soon as a row and all pages they can need are free.

A row owns its pages before it starts, so a started row always finishes. A finished row's full pages stay known by their
digests, for later prompts that begin alike.
"""

from collections import deque

from trine.engine.checks import pages_needed
from trine.engine.pages import PAGE, PagePool, page_digests
from trine.engine.request import Request
from trine.engine.rows import Row
from trine.runtime.errors import TrineError


class Admission:
    """The queue of waiting requests, the active rows (at most `rows`), and the pages between them."""

    def __init__(self, pool: PagePool, rows: int) -> None:
        self.pool, self.rows = pool, rows
        self.waiting: deque[Request] = deque()
        self.active: list[Row] = []
        self.prefix_hits = 0  # pages of prompts that were found computed

    def admit(self, weights: str) -> list[Row]:
        """Rows for the requests that have room now, in the order they came; `weights` will write their answers."""
        started: list[Row] = []
        while self.waiting and len(self.active) < self.rows:
            request = self.waiting[0]
            row = None if request.done else self._start(request)
            if row is not None:
                request.weights = weights
                self.active.append(row)
                started.append(row)
            elif not request.done:
                break
            self.waiting.popleft()
        return started

    def _start(self, request: Request) -> Row | None:
        """None where there is no room yet; the prefix that an earlier prompt has computed is shared."""
        # The last token is always read anew, for its logits.
        digests = page_digests(request.prompt_ids[:-1])
        shared = self.pool.known_prefix(digests)
        pages = self.pool.acquire(shared, pages_needed(request.prompt_ids, request.sampling) - len(shared))
        if pages is None:
            if not self.active:
                free = f"{self.pool.available} of {self.pool.pages} pages are free"
                request.fail(TrineError(f"{free} and no row will free more; raise cache_bytes"))
            return None
        self.pool.remember(pages, digests)
        self.prefix_hits += len(shared)
        return Row(request, pages, len(shared) * PAGE)

    def retire(self) -> None:
        """Rows whose requests are done give their pages back."""
        rows, self.active = self.active, []
        for row in rows:
            if not row.request.done:
                self.active.append(row)
                continue
            ids = (*row.request.prompt_ids, *row.request.ids)[: row.decoding.position]
            self.pool.remember(row.page_numbers, page_digests(ids))
            self.pool.release(row.page_numbers)

    def abandon(self, error: BaseException) -> None:
        """A call of the model failed half-way: the active rows fail, and what is in the pages is not trusted."""
        self.pool.forget()
        for row in self.active:
            row.request.fail(TrineError(f"the step of the engine that ran this request failed: {error!r}"))
            self.pool.release(row.page_numbers)
        self.active = []
