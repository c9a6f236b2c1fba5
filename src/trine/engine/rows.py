"""A request that has its pages, and the cutting of prompts into calls of the model."""

from collections.abc import Iterator, Sequence

import numpy as np

from trine.engine.ngrams import MAX_DRAFT_TOKENS, NgramLookup
from trine.engine.request import Request, SampledToken
from trine.engine.runner import MAX_TOKENS, Chunk, DecodeRow, SamplingState
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer


class Row:
    """A started request: its pages, and what the runner has to know to decode it."""

    def __init__(self, request: Request, pages: list[int], cached: int) -> None:
        self.request, self.page_numbers = request, pages
        self.decoding = DecodeRow(
            pages=np.array(pages, dtype=np.int32),
            position=cached,
            next_id=-1,
            sampling=SamplingState(request.sampling.temperature, request.seed),
            ends=np.array((*request.sampling.eos_ids, *request.sampling.stop_ids), dtype=np.int64),
        )
        self._lookup = NgramLookup()

    def next_chunk(self) -> tuple["Row", Chunk]:
        """The token that was sampled last, to be read."""
        return self, Chunk(self.decoding.pages, [self.decoding.next_id], self.decoding.position)

    def accept(self, token: SampledToken | TrineError, tokenizer: Tokenizer | None) -> None:
        """Write a sampled token down, to be read next; whatever that raises fails this request alone."""
        if isinstance(token, TrineError):
            self.request.fail(token)
            return
        self.decoding.next_id = token.id
        self.decoding.sampling.counter += 1
        self.request.accept(token, tokenizer)

    def draft(self) -> list[int]:
        """Draft tokens from the row's own past."""
        if self._lookup.length == 0:
            self._lookup.extend(self.request.prompt_ids)
        self._lookup.extend(self.request.ids[self._lookup.length - len(self.request.prompt_ids) :])
        return self._lookup.draft(min(MAX_DRAFT_TOKENS, self.request.budget - 1))


def prompt_calls(rows: Sequence[Row]) -> Iterator[list[tuple[Row, Chunk]]]:
    """What is left to read of the rows' prompts, cut into calls of at most `MAX_TOKENS` tokens."""
    batch: list[tuple[Row, Chunk]] = []
    room = MAX_TOKENS
    for row in rows:
        prompt, start = row.request.prompt_ids, row.decoding.position
        while start < len(prompt):
            end = min(len(prompt), start + room)
            batch.append((row, Chunk(row.decoding.pages, prompt[start:end], start, wanted=int(end == len(prompt)))))
            room -= end - start
            start = end
            if room == 0:
                yield batch
                batch, room = [], MAX_TOKENS
    if batch:
        yield batch
