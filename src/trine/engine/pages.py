"""Memory for keys and values in pages of 16 positions (Kwon et al. 2023), with a stated limit and shared prefixes.

A row owns the pages its prompt and its answer can need before it starts, so a started row always finishes. A full page
of a prompt is known by a digest of every token up to its end: a later prompt with the same beginning reads it instead
of computing it again. Unused pages keep their content until their memory is needed, the oldest evicted first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

PAGE = 16


def page_digests(ids: Sequence[int]) -> list[bytes]:
    """One digest for each full page of `ids`, of all tokens from the first to the page's last."""
    chain = blake2b(digest_size=16)
    digests = []
    data = np.asarray(ids, dtype=np.int64)
    for end in range(PAGE, len(ids) + 1, PAGE):
        chain.update(data[end - PAGE : end].tobytes())
        digests.append(chain.digest())
    return digests


class PagePool:
    """Hands out page numbers 1 to `pages`; page 0 belongs to no row: padding is written there."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._free = list(range(pages, 0, -1))
        self._users = [0] * (pages + 1)
        self._digest_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # known pages without users, oldest first

    @property
    def available(self) -> int:
        """How many pages can be taken now."""
        return len(self._free) + len(self._idle)

    def known_prefix(self, digests: Sequence[bytes]) -> list[int]:
        """The pages that hold the longest known beginning."""
        found: list[int] = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            found.append(page)
        return found

    def acquire(self, shared: Sequence[int], fresh: int) -> list[int] | None:
        """Use `shared` known pages and `fresh` new ones; None, and nothing changed, while there is no room."""
        if fresh > self.available - sum(page in self._idle for page in shared):
            return None
        for page in shared:
            self._use(page)
        return [*shared, *(self._take() for _ in range(fresh))]

    def _use(self, page: int) -> None:
        self._idle.pop(page, None)
        self._users[page] += 1

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._digest_of.pop(page)]
        self._users[page] = 1
        return page

    def remember(self, pages: Sequence[int], digests: Sequence[bytes]) -> None:
        """Make full pages known by their digests; content another page is already known by stays with that one."""
        for page, digest in zip(pages, digests, strict=False):
            if digest not in self._page_of and page not in self._digest_of:
                self._page_of[digest] = page
                self._digest_of[page] = digest

    def unlearn(self, pages: Sequence[int]) -> None:
        """Pages in use will not hold what they are known by."""
        for page in pages:
            digest = self._digest_of.pop(page, None)
            if digest is not None:
                del self._page_of[digest]

    def release(self, pages: Sequence[int]) -> None:
        """One user less. A prefix's last pages count as older: they are worth nothing without the first."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._digest_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def forget(self) -> None:
        """Nothing in the pages is worth keeping: the weights have changed. Pages in use stay in use."""
        self._free += self._idle
        self._idle.clear()
        self._page_of.clear()
        self._digest_of.clear()
