"""A request that has its pages, and the cutting of prompts into calls of the model."""

from collections.abc import Sequence

import numpy as np

from trine.engine.ngrams import MAX_DRAFT_TOKENS, NgramLookup
from trine.engine.request import Request, SampledToken
from trine.engine.runner import Chunk, DecodeRow, SamplingState
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

    @property
    def reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self.decoding.position < len(self.request.prompt_ids)

    def next_chunk(self) -> tuple["Row", Chunk]:
        """The token that was sampled last, to be read."""
        return self, Chunk(self.decoding.pages, [self.decoding.next_id], self.decoding.position)

    def accept(self, token: SampledToken | TrineError, tokenizer: Tokenizer | None) -> None:
        """A token was sampled: the next to be read."""
        if isinstance(token, SampledToken):
            self.decoding.next_id = token.id
            self.decoding.sampling.counter += 1
        self.record(token, tokenizer)

    def record(self, token: SampledToken | TrineError, tokenizer: Tokenizer | None) -> None:
        """Write a sampled token down; whatever that raises fails this request alone."""
        try:
            if isinstance(token, TrineError):
                raise token
            self.request.accept(token, tokenizer)
        except TrineError as error:
            self.request.fail(error)
        except Exception as error:
            self.request.fail(TrineError(f"writing a token of the request down failed: {error!r}"))

    def draft(self) -> list[int]:
        """Draft tokens from the row's own past."""
        if self._lookup.length == 0:
            self._lookup.extend(self.request.prompt_ids)
        self._lookup.extend(self.request.ids[self._lookup.length - len(self.request.prompt_ids) :])
        return self._lookup.draft(min(MAX_DRAFT_TOKENS, self.request.budget - 1))


def prompt_call(rows: Sequence[Row], tokens: int) -> list[tuple[Row, Chunk]]:
    """What is to be read next of the rows' prompts, at most `tokens`.

    In the order of `rows`: a row may share pages that an earlier one has yet to compute.
    """
    call: list[tuple[Row, Chunk]] = []
    for row in rows:
        prompt, start = row.request.prompt_ids, row.decoding.position
        end = min(len(prompt), start + tokens)
        if start < end:
            call.append((row, Chunk(row.decoding.pages, prompt[start:end], start, wanted=int(end == len(prompt)))))
            tokens -= end - start
    return call
