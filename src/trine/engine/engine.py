"""The one place where Trine generates text: rollouts, evaluation, chat and server all use `Engine`.

Continuous batching (Yu et al. 2022): a row that ends makes room at once for the next prompt. Memory for keys and
values is paged and limited; a prompt waits until the pages it can need are free, and starts with the pages
of an earlier prompt's beginning where it shares it. Token ids in, token ids out.
Invariants: a request's tokens depend on the model, its prompt and its `Sampling` (seed included), not on its company
(on the plain runner in bf16, where the order of a sum is heard, up to rounding); until `refresh` the engine knows the
weights it was made with.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from trine.engine.checks import check_prompt, check_sampling, check_scored, pages_needed
from trine.engine.constraint import Constraints
from trine.engine.native.runner import NativeRunner, native_supports
from trine.engine.pages import PAGE, PagePool, page_digests
from trine.engine.quantization import rounded_to_int8
from trine.engine.request import Request, SampledToken
from trine.engine.runner import MAX_TOKENS, DecodeRow, DrawState, Run, Runner
from trine.engine.sampler import choose
from trine.engine.sampling import Sampling
from trine.engine.scoring import Scored, score
from trine.engine.speculation import MAX_DRAFT_TOKENS, NgramLookup
from trine.engine.torch_runner import TorchRunner
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer
from trine.records import Rollout
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed
from trine.tokenizer.tokenizer import Tokenizer

DEFAULT_CACHE_BYTES = 4 << 30
# A call of several steps cannot be cancelled within, and shows its tokens at its end.
SECONDS_A_CALL = 0.05
MAX_STEPS = 32
# Below this, looking for a guess costs more than a token.
SHORTEST_GUESSED_STEP = 0.002


class _Row:
    """A request that has its pages."""

    def __init__(self, request: Request, pages: list[int], cached: int, weights_version: int) -> None:
        self.request, self.page_numbers, self.weights_version = request, pages, weights_version
        self.decoding = DecodeRow(
            pages=np.array(pages, dtype=np.int32),
            position=cached,
            next_id=-1,
            draw=DrawState(request.sampling.temperature, request.seed),
            ends=np.array((*request.sampling.eos_ids, *request.sampling.stop_ids), dtype=np.int64),
        )
        self._lookup = NgramLookup()

    def next_run(self) -> tuple["_Row", Run]:
        """Reading the token that was drawn last."""
        return self, Run(self.decoding.pages, [self.decoding.next_id], self.decoding.position)

    def guess(self, most: int) -> list[int]:
        """What may come next, from the row's own past."""
        if self._lookup.length == 0:
            self._lookup.extend(self.request.prompt_ids)
        self._lookup.extend(self.request.ids[self._lookup.length - len(self.request.prompt_ids) :])
        return self._lookup.guess(most)


class Engine:
    """Generates from one model. Call `refresh` after the model's weights changed.

    `rows` decode at a time; `cache_bytes` is the most that keys and values take (by default what `rows` rows of the
    whole context need, at most 4 GiB). `weights` "int8" halves what a step reads (quantization.py). `tokenizer` is
    needed for stop strings and constraints only. `native` None takes the compiled step where it can be had.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        rows: int = 128,
        cache_bytes: int | None = None,
        weights: Literal["compute", "int8"] = "compute",
        tokenizer: Tokenizer | None = None,
        native: bool | None = None,
    ) -> None:
        self.source, self.rows, self.weights, self.tokenizer = model, rows, weights, tokenizer
        self.constraints = Constraints(tokenizer, model.config.vocab_size) if tokenizer else None
        self.pool = PagePool(self._page_count(cache_bytes))
        self.native = _native_is_possible(model) if native is None else native
        if self.native and not _native_is_possible(model):
            raise TrineError(
                "native=True cannot be honoured: the compiled step needs a C++ compiler, a CPU, fp32 or bf16, and "
                "widths that are multiples of 16; leave native unset to run on PyTorch where that is missing"
            )
        self.runner = self._make_runner()
        self._waiting: deque[Request] = deque()
        self._active: list[_Row] = []
        self._step_seconds = SECONDS_A_CALL
        self._weights_version = 0
        self.refresh()

    def _page_count(self, cache_bytes: int | None) -> int:
        config, item = self.source.config, self.source.compute_dtype.itemsize
        page_bytes = 2 * config.layers * config.kv_heads * config.head_dim * PAGE * item
        wanted = self.rows * -(-config.context // PAGE)
        pages = min(wanted, (DEFAULT_CACHE_BYTES if cache_bytes is None else cache_bytes) // page_bytes)
        if pages < 1:
            raise TrineError(
                f"cache_bytes={cache_bytes} holds no page of {PAGE} tokens, which takes {page_bytes} bytes"
            )
        return pages

    def _make_runner(self) -> Runner:
        if not self.native:
            return TorchRunner(self.source, self.pool.pages)
        precision: Literal["fp32", "bf16", "int8"] = "fp32" if self.source.compute_dtype == torch.float32 else "bf16"
        return NativeRunner(
            self.source.config,
            rows=self.rows,
            pages=self.pool.pages,
            precision="int8" if self.weights == "int8" else precision,
            threads=torch.get_num_threads(),
        )

    def refresh(self) -> None:
        """Take over the source model's weights, adapters merged in; what earlier weights computed is forgotten."""
        weights = plain_weights(self.source)
        if self.weights == "int8" and not self.native:
            weights = rounded_to_int8(weights)
        self.runner.load(weights)
        self.pool.forget()
        self._weights_version += 1

    # Whole batches

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        policy_version: int = 0,
        on_finished: Callable[[int], None] | None = None,
    ) -> list[Rollout]:
        """One rollout per prompt, in order.

        With one `sampling` row i draws from (seed, i), so equal prompts get different answers; with one for each prompt
        every row draws from its own seed. `on_finished(n)` hears of every n rollouts that are done. Raises `TrineError`
        when a prompt is empty or leaves no room for `max_new_tokens` in the model's context.
        """
        shared = isinstance(sampling, Sampling)
        settings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(settings) != len(prompts):
            raise TrineError(
                f"{len(prompts)} prompts come with {len(settings)} samplings; give one for all, or one each"
            )
        requests = [
            self._make_request(prompt, setting, number, number if shared else 0)
            for number, (prompt, setting) in enumerate(zip(prompts, settings, strict=True))
        ]
        self._waiting.extend(requests)
        try:
            left = len(requests)
            while left:
                self.step()
                finished = left - sum(not request.done for request in requests)
                left -= finished
                if finished and on_finished is not None:
                    on_finished(finished)
        except BaseException:
            self._abandon()
            raise
        return [request.rollout(policy_version) for request in requests]

    def score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probabilities of every response's tokens after its prompt, at `temperature`, without filters.

        Raises `TrineError` where a prompt or response is empty or too long for the context, or one lacks the other.
        """
        if len(prompts) != len(responses):
            raise TrineError(f"{len(prompts)} prompts come with {len(responses)} responses; give one for each")
        rows = [Scored(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)]
        for number, row in enumerate(rows):
            check_scored(row.prompt, row.response, number, self.source.config)
        return score(self.runner, self.pool, rows, temperature)

    # One request at a time

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Request:
        """Put a prompt in line; `step` works on it. May be called from any thread."""
        request = self._make_request(prompt_ids, sampling, 0, 0)
        self._waiting.append(request)
        return request

    def stream(self, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[list[int]]:
        """New ids of one answer as they come. Leaving the iterator early frees the row."""
        request = self.submit(prompt_ids, sampling)
        seen = 0
        try:
            while True:
                new = request.ids[seen:]  # another stream's step may have brought them
                seen += len(new)
                if new:
                    yield new
                elif request.done:
                    _raise_unless_whole(request)
                    return
                else:
                    self.step()
        finally:
            request.cancel()
            self._retire()

    def _make_request(self, prompt: Sequence[int], sampling: Sampling, number: int, row: int) -> Request:
        check_prompt(prompt, number, sampling, self.source.config, self.pool.pages)
        check_sampling(sampling, self.source.config, has_tokenizer=self.tokenizer is not None)
        matcher = None
        if sampling.constraint is not None and self.constraints is not None:
            matcher = self.constraints.matcher(sampling.constraint, sampling.eos_ids)
        return Request(tuple(prompt), sampling, derive_seed(sampling.seed, "row", row), matcher)

    # A step

    def step(self) -> list[Request]:
        """Start what has room, else decode all rows for a moment; the requests that finished by it."""
        self._retire()
        try:
            started = self._admit()
            requests = [row.request for row in self._active]
            # The plain runner pads what it reads at once, so there prompts go alone and decoding follows.
            others = self._active[: len(self._active) - len(started)] if self.native else []
            self._read_prompts(started, others)
            self._retire()
            if not (started and self.native):
                self._decode()
                self._retire()
        except BaseException:
            self._abandon()
            raise
        return [request for request in requests if request.done]

    def _retire(self) -> None:
        """Rows whose answers are whole, or cancelled, give their pages back."""
        rows, self._active = self._active, []
        for row in rows:
            if not row.request.done:
                self._active.append(row)
                continue
            if row.weights_version == self._weights_version:
                ids = (*row.request.prompt_ids, *row.request.ids)[: row.decoding.position]
                self.pool.remember(row.page_numbers, page_digests(ids))
            self.pool.release(row.page_numbers)

    def _abandon(self) -> None:
        """Something went wrong half-way: what is in line is cancelled, and what is in the pages is not trusted."""
        while self._waiting:
            self._waiting.popleft().cancel()
        self.pool.forget()
        for row in self._active:
            row.request.cancel()
            self.pool.release(row.page_numbers)
        self._active = []
        self.runner.clear()

    def _admit(self) -> list[_Row]:
        """Rows for the prompts that have room now, in the order they came."""
        started: list[_Row] = []
        while self._waiting and len(self._active) < self.rows:
            request = self._waiting[0]
            if request.done:  # cancelled in line
                self._waiting.popleft()
                continue
            # The last token is always read anew, for its logits.
            digests = page_digests(request.prompt_ids[:-1])
            shared = self.pool.known_prefix(digests)
            pages = self.pool.acquire(shared, pages_needed(request.prompt_ids, request.sampling) - len(shared))
            if pages is None and not self._active:
                raise TrineError(f"{self.pool.available} of {self.pool.pages} pages are free and no row will free more")
            if pages is None:
                break
            self._waiting.popleft()
            self.pool.remember(pages, digests)
            row = _Row(request, pages, len(shared) * PAGE, self._weights_version)
            self._active.append(row)
            started.append(row)
        return started

    def _read_prompts(self, rows: Sequence[_Row], others: Sequence[_Row]) -> None:
        """Run all prompts through the model, `MAX_TOKENS` tokens at a time, and draw each row's first token.

        Rows that decode already come along, a token with each call: the weights are read anyway.
        """
        for batch in self._calls(rows):
            self._forward([*batch, *(row.next_run() for row in others if not row.request.done)])

    def _calls(self, rows: Sequence[_Row]) -> Iterator[list[tuple[_Row, Run]]]:
        """What is left to read of the rows' prompts, cut into calls of at most `MAX_TOKENS` tokens."""
        batch: list[tuple[_Row, Run]] = []
        room = MAX_TOKENS
        for row in rows:
            prompt, start = row.request.prompt_ids, row.decoding.position
            while start < len(prompt):
                end = min(len(prompt), start + room)
                batch.append((row, Run(row.decoding.pages, prompt[start:end], start, wanted=int(end == len(prompt)))))
                room -= end - start
                start = end
                if room == 0:
                    yield batch
                    batch, room = [], MAX_TOKENS
        if batch:
            yield batch

    def _forward(self, batch: Sequence[tuple[_Row, Run]]) -> None:
        """One call of the model, then a token for every row whose logits were wanted."""
        logits = self.runner.forward([run for _, run in batch])
        for row, run in batch:
            row.decoding.position = run.start + len(run.ids)
        rows = [row for row, run in batch if run.wanted]
        if not rows:
            return
        drawn = choose(self.runner, logits, [row.request for row in rows], [row.decoding.draw for row in rows])
        for row, token in zip(rows, drawn, strict=True):
            if isinstance(token, TrineError):
                row.request.fail(token)
                continue
            row.decoding.next_id = token.id
            row.decoding.draw.counter += 1
            row.request.accept(token, self.tokenizer)

    def _decode(self) -> None:
        if not self._active:
            return
        active = list(self._active)  # a stream that is closed meanwhile changes the other list
        if any(row.request.needs_logits for row in active):
            self._forward([row.next_run() for row in active])
            return
        if self._speculates() and self._decode_guessed(active[0]):
            return
        steps = min(row.request.budget for row in active)
        most = 1 if self._speculates() else MAX_STEPS
        steps = max(1, min(steps, most, int(SECONDS_A_CALL / self._step_seconds)))
        began = time.perf_counter()
        all_ids, all_log_probs = self.runner.decode([row.decoding for row in active], steps)
        self._step_seconds = max(1e-6, (time.perf_counter() - began) / len(all_ids))
        for ids, log_probs in zip(all_ids, all_log_probs, strict=True):
            for row, token_id, log_prob in zip(active, ids, log_probs, strict=True):
                if not row.request.done:
                    row.request.accept(SampledToken(token_id, log_prob), self.tokenizer)

    def _speculates(self) -> bool:
        """One row alone, on the runner whose numbers do not depend on how many tokens are read at once."""
        return self.native and len(self._active) == 1 and self._step_seconds > SHORTEST_GUESSED_STEP

    def _decode_guessed(self, row: _Row) -> bool:
        """Check the tokens that followed the last time; False where nothing like the row's end was seen before."""
        request, decoding = row.request, row.decoding
        guess = row.guess(min(MAX_DRAFT_TOKENS, request.budget - 1))
        if not guess:
            return False
        ids = [decoding.next_id, *guess]
        self.runner.forward([Run(decoding.pages, ids, decoding.position, wanted=len(ids))])
        draw = decoding.draw
        states = [DrawState(draw.temperature, draw.seed, draw.counter + place) for place in range(len(ids))]
        drawn = zip(*self.runner.draw(range(len(ids)), states), [*guess, -1], strict=True)
        for token_id, log_prob, guessed in drawn:
            request.accept(SampledToken(token_id, log_prob), self.tokenizer)
            decoding.next_id = token_id
            decoding.position += 1
            draw.counter += 1
            if request.done or token_id != guessed:
                break
        return True


def _raise_unless_whole(request: Request) -> None:
    if request.error is not None:
        raise request.error
    if request.stop_reason == "cancelled":
        raise TrineError("the answer was cut off: another request of the same engine failed, or it was cancelled")


def _native_is_possible(model: Transformer) -> bool:
    on_cpu = model.output_weight.device.type == "cpu"
    return on_cpu and model.compute_dtype in (torch.float32, torch.bfloat16) and native_supports(model.config)
