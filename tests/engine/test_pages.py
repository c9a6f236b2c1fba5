"""The memory of keys and values: who owns a page, what is known of it, and who leaves first."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trine.engine.pages import PAGE, PagePool, page_digests

IDS = list(range(3 * PAGE))


def test_only_full_pages_have_digests() -> None:
    assert [len(page_digests(IDS[:length])) for length in (0, 15, 16, 17, 31, 32, 48)] == [0, 0, 1, 1, 1, 2, 3]


def test_a_digest_is_of_everything_up_to_its_pages_end() -> None:
    digests = page_digests(IDS)
    assert page_digests(IDS[:32]) == digests[:2]
    changed = page_digests([99, *IDS[1:]])
    assert not set(changed) & set(digests)
    assert page_digests([*IDS[:16], 99, *IDS[17:]])[0] == digests[0]


def test_all_pages_but_page_0_are_handed_out_once() -> None:
    pool = PagePool(5)
    pages = pool.acquire([], 5)
    assert sorted(pages or []) == [1, 2, 3, 4, 5]
    assert pool.available == 0
    assert pool.acquire([], 1) is None
    assert pool.acquire([], 0) == []


def test_without_room_nothing_changes() -> None:
    pool = PagePool(4)
    first = pool.acquire([], 3)
    assert first is not None
    pool.remember(first, page_digests(IDS))
    pool.release(first)
    assert pool.acquire(pool.known_prefix(page_digests(IDS)), 2) is None
    assert pool.available == 4
    assert pool.known_prefix(page_digests(IDS)) == first
    assert pool.acquire(first, 1) is not None


def filled(pool: PagePool, ids: list[int]) -> list[int]:
    """A row that read `ids`, was remembered, and left."""
    pages = pool.acquire([], len(ids) // PAGE)
    assert pages is not None
    pool.remember(pages, page_digests(ids))
    pool.release(pages)
    return pages


def test_a_known_beginning_is_found_as_far_as_it_goes() -> None:
    pool = PagePool(9)
    pages = filled(pool, IDS)
    assert pool.known_prefix(page_digests(IDS)) == pages
    assert pool.known_prefix(page_digests([*IDS[:40], 7])) == pages[:2]
    assert pool.known_prefix(page_digests(IDS[16:])) == []


def test_the_pages_longest_unused_leave_first_and_of_a_prefix_the_last_page() -> None:
    pool = PagePool(6)
    others = [99, *IDS[1:]]
    filled(pool, IDS)
    filled(pool, others)
    for taken, left in ((1, (2, 3)), (2, (1, 3)), (3, (0, 3)), (4, (0, 2))):
        assert pool.acquire([], 1) is not None
        found = tuple(len(pool.known_prefix(page_digests(ids))) for ids in (IDS, others))
        assert (taken, found) == (taken, left)


def test_a_prefix_used_again_becomes_the_youngest() -> None:
    pool = PagePool(6)
    others = [99, *IDS[1:]]
    filled(pool, IDS)
    filled(pool, others)
    again = pool.acquire(pool.known_prefix(page_digests(IDS)), 0)
    assert again is not None
    pool.release(again)
    assert pool.acquire([], 3) is not None
    assert len(pool.known_prefix(page_digests(IDS))) == 3
    assert pool.known_prefix(page_digests(others)) == []


def test_free_pages_are_taken_before_known_ones() -> None:
    pool = PagePool(6)
    known = filled(pool, IDS)
    assert not set(pool.acquire([], 3) or known) & set(known)
    assert pool.known_prefix(page_digests(IDS)) == known


def test_a_shared_page_stays_until_its_last_user_leaves() -> None:
    pool = PagePool(4)
    first = pool.acquire([], 3)
    assert first is not None
    pool.remember(first, page_digests(IDS))
    second = pool.acquire(first, 0)
    pool.release(first)
    assert second == first
    assert pool.available == 1
    pool.release(first)
    assert pool.available == 4


def test_after_forgetting_nothing_is_known_and_pages_in_use_stay_in_use() -> None:
    pool = PagePool(6)
    filled(pool, [99, *IDS[1:]])
    used = pool.acquire([], 3)
    assert used is not None
    pool.remember(used, page_digests(IDS))
    pool.forget()
    assert pool.known_prefix(page_digests(IDS)) == []
    assert pool.available == 3
    assert not set(pool.acquire([], 3) or used) & set(used)
    pool.release(used)
    assert pool.available == 3
    assert pool.known_prefix(page_digests(IDS)) == []


@dataclass
class LiveRow:
    ids: list[int]
    pages: list[int]
    current: bool = True  # started since everything was forgotten


blocks = st.lists(st.integers(0, 1), max_size=4)


class Pool(RuleBasedStateMachine):
    """Prompts out of two kinds of pages; `content` is what was last written to each page of memory."""

    @initialize(pages=st.integers(3, 12))
    def make(self, pages: int) -> None:
        self.pool, self.rows = PagePool(pages), list[LiveRow]()
        self.content: dict[int, tuple[int, ...]] = {}
        self.seen: set[tuple[int, ...]] = set()

    @property
    def used(self) -> set[int]:
        return {page for row in self.rows for page in row.pages}

    @rule(kinds=blocks, tail=st.integers(1, PAGE), budget=st.integers(0, 20))
    def start(self, kinds: list[int], tail: int, budget: int) -> None:
        ids = [kind for kind in kinds for _ in range(PAGE)] + [2] * tail
        digests = page_digests(ids[:-1])
        shared = self.pool.known_prefix(digests)
        for number, page in enumerate(shared, 1):
            assert self.content[page] == tuple(ids[: number * PAGE])
        before, used = self.pool.available, self.used
        needed = -(-(len(ids) + budget) // PAGE) - len(shared)
        pages = self.pool.acquire(shared, needed)
        if pages is None:
            assert self.pool.available == before
            assert needed > self.pool.pages - len(used | set(shared))
            return
        fresh = pages[len(shared) :]
        assert pages[: len(shared)] == shared
        assert len(set(pages)) == len(pages)
        assert 0 not in pages
        assert not set(fresh) & used
        self.write(ids, pages)
        self.pool.remember(pages, digests)
        self.rows.append(LiveRow(ids, pages))

    def write(self, ids: list[int], pages: list[int]) -> None:
        for number, page in enumerate(pages, 1):
            self.content[page] = tuple(ids[: number * PAGE])
        self.seen.add(tuple(ids))

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), remembered=st.booleans())
    def finish(self, data: st.DataObject, remembered: bool) -> None:
        row = self.rows.pop(data.draw(st.integers(0, len(self.rows) - 1)))
        ids = [*row.ids, *[1] * (len(row.pages) * PAGE - len(row.ids))]
        if row.current and remembered:
            self.write(ids, row.pages)
            self.pool.remember(row.pages, page_digests(ids))
        self.pool.release(row.pages)

    @rule()
    def forget(self) -> None:
        self.pool.forget()
        self.content.clear()
        for row in self.rows:
            row.current = False
        assert not any(self.pool.known_prefix(page_digests(ids)) for ids in self.seen)

    @invariant()
    def every_page_is_in_use_or_available(self) -> None:
        assert self.pool.available + len(self.used) == self.pool.pages


Pool.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPool = Pool.TestCase


def test_rows_that_come_and_go_for_long_lose_no_page() -> None:
    pool = PagePool(7)
    for number in range(200):
        pages = pool.acquire([], 1 + number % 7)
        assert pages is not None
        pool.remember(pages, page_digests([number, *range(len(pages) * PAGE - 1)]))
        pool.release(pages)
        assert pool.available == 7
