"""Log-probabilities of given responses: every prompt and response read once, many rows at a time, no logits kept.

Prompts that begin alike share their pages as in generation, so several responses to one prompt read it once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trine.engine.pages import PAGE, PagePool, page_digests
from trine.engine.runner import MAX_TOKENS, Chunk, Runner
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Continuation:
    """A prompt with the response whose log-probabilities are wanted. The response's last token is never read."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.prompt, *self.response[:-1])

    @property
    def pages(self) -> int:
        """How many pages it needs."""
        return -(-len(self.ids) // PAGE)


def pieces(rows: Sequence[Continuation]) -> Iterator[list[Continuation]]:
    """The rows in groups of about a call's tokens."""
    group: list[Continuation] = []
    for row in rows:
        group.append(row)
        if sum(len(each.ids) for each in group) >= MAX_TOKENS:
            yield group
            group = []
    if group:
        yield group


def response_log_probs(
    runner: Runner, pool: PagePool, rows: Sequence[Continuation], temperature: float
) -> list[list[float]]:
    """Log-probabilities of every response's tokens at `temperature`, of the model's own distribution."""
    found: list[list[float]] = []
    left = list(rows)
    while left:
        group, pages, starts = _take(pool, left)
        left = left[len(group) :]
        try:
            found += _group_log_probs(runner, group, pages, starts, temperature)
        except BaseException:
            pool.forget()
            raise
        finally:
            for numbers in pages:
                pool.release(numbers)
    return found


def _take(pool: PagePool, rows: Sequence[Continuation]) -> tuple[list[Continuation], list[list[int]], list[int]]:
    """As many rows as a call's tokens and the free pages allow, at least one; their pages; first positions to read."""
    taken: list[Continuation] = []
    pages: list[list[int]] = []
    starts: list[int] = []
    tokens = 0
    for row in rows:
        digests = page_digests(row.prompt[:-1])
        shared = pool.known_prefix(digests)
        numbers = pool.acquire(shared, row.pages - len(shared))
        if numbers is None:
            break
        pool.remember(numbers, digests)
        taken.append(row)
        pages.append(numbers)
        starts.append(len(shared) * PAGE)
        tokens += len(row.ids) - starts[-1]
        if tokens >= MAX_TOKENS:
            break
    if not taken:
        raise TrineError(f"a row of {len(rows[0].ids)} tokens does not fit into the free cache; raise cache_bytes")
    return taken, pages, starts


def _group_log_probs(
    runner: Runner,
    rows: Sequence[Continuation],
    pages: Sequence[Sequence[int]],
    starts: Sequence[int],
    temperature: float,
) -> list[list[float]]:
    found: list[float] = []
    for chunks, targets in _calls(rows, pages, starts):
        found += runner.log_probs(chunks, targets, temperature)
    ends = np.cumsum([len(row.response) for row in rows]).tolist()
    return [found[end - len(row.response) : end] for row, end in zip(rows, ends, strict=True)]


def _calls(
    rows: Sequence[Continuation], pages: Sequence[Sequence[int]], starts: Sequence[int]
) -> Iterator[tuple[list[Chunk], list[int]]]:
    """The rows cut into calls of at most `MAX_TOKENS` tokens, with the tokens that follow the wanted ones."""
    chunks: list[Chunk] = []
    targets: list[int] = []
    room = MAX_TOKENS
    for row, numbers, known in zip(rows, pages, starts, strict=True):
        ids, first_wanted, start = row.ids, len(row.prompt) - 1, known
        while start < len(ids):
            end = min(len(ids), start + room)
            wanted = range(max(start, first_wanted), end)
            chunks.append(Chunk(np.array(numbers, dtype=np.int32), ids[start:end], start, wanted=len(wanted)))
            targets += [row.response[position - first_wanted] for position in wanted]
            room -= end - start
            start = end
            if room == 0:
                yield chunks, targets
                chunks, targets, room = [], [], MAX_TOKENS
    if chunks:
        yield chunks, targets
