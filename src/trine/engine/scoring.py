"""How likely given responses are: every prompt and response read once, many rows at a time, no logits kept.

Prompts that begin alike share their pages as in generation, so several responses to one prompt read it once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trine.engine.pages import PAGE, PagePool, page_digests
from trine.engine.runner import MAX_TOKENS, Run, Runner
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Scored:
    """A prompt with a response whose tokens are scored. The last token of the response is never read."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.prompt, *self.response[:-1])


def score(runner: Runner, pool: PagePool, rows: Sequence[Scored], temperature: float) -> list[list[float]]:
    """Log-probabilities of every response's tokens at `temperature`, of the model's own distribution."""
    scores: list[list[float]] = []
    left = list(rows)
    while left:
        group, pages, starts = _take(pool, left)
        left = left[len(group) :]
        try:
            scores += _score_group(runner, group, pages, starts, temperature)
        except BaseException:
            pool.forget()
            raise
        finally:
            for numbers in pages:
                pool.release(numbers)
    return scores


def _take(pool: PagePool, rows: Sequence[Scored]) -> tuple[list[Scored], list[list[int]], list[int]]:
    """As many rows as a call's tokens and the free pages allow, at least one; their pages; where reading begins."""
    taken: list[Scored] = []
    pages: list[list[int]] = []
    starts: list[int] = []
    tokens = 0
    for row in rows:
        digests = page_digests(row.prompt[:-1])
        shared = pool.known_prefix(digests)
        numbers = pool.acquire(shared, -(-len(row.ids) // PAGE) - len(shared))
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


def _score_group(
    runner: Runner, rows: Sequence[Scored], pages: Sequence[Sequence[int]], starts: Sequence[int], temperature: float
) -> list[list[float]]:
    found: list[float] = []
    for runs, targets in _calls(rows, pages, starts):
        found += runner.score(runs, targets, temperature)
    ends = np.cumsum([len(row.response) for row in rows]).tolist()
    return [found[end - len(row.response) : end] for row, end in zip(rows, ends, strict=True)]


def _calls(
    rows: Sequence[Scored], pages: Sequence[Sequence[int]], starts: Sequence[int]
) -> Iterator[tuple[list[Run], list[int]]]:
    """The rows cut into calls of at most `MAX_TOKENS` tokens, with the tokens that follow the wanted ones."""
    runs: list[Run] = []
    targets: list[int] = []
    room = MAX_TOKENS
    for row, numbers, known in zip(rows, pages, starts, strict=True):
        ids, first_wanted, start = row.ids, len(row.prompt) - 1, known
        while start < len(ids):
            end = min(len(ids), start + room)
            wanted = range(max(start, first_wanted), end)
            runs.append(Run(np.array(numbers, dtype=np.int32), ids[start:end], start, wanted=len(wanted)))
            targets += [row.response[place - first_wanted] for place in wanted]
            room -= end - start
            start = end
            if room == 0:
                yield runs, targets
                runs, targets, room = [], [], MAX_TOKENS
    if runs:
        yield runs, targets
