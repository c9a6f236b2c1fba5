"""The one place where Trine generates text: rollouts, evaluation, chat and server all use `Engine`.

Continuous batching (Yu et al. 2022): a row that ends makes room at once for the next prompt. Memory for keys and
values is paged and limited; a prompt waits until the pages it can need are free, and starts with the pages
of an earlier prompt's beginning where it shares it. Token ids in, token ids out.
Invariants: a request's tokens depend on the model, its prompt and its `Sampling` (seed included), not on its batch
(on the plain runner in bf16, where the summation order changes the rounding, up to that rounding); weights change
only between requests, by `refresh` and `load`; a request that fails fails alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor

from trine.engine.admission import Admission
from trine.engine.checks import check_continuation, check_prompt, check_sampling, check_weights
from trine.engine.constraint import Constraints
from trine.engine.log_probs import Continuation, response_log_probs
from trine.engine.native.runner import NativeRunner, native_supports
from trine.engine.one_thread import OneThread
from trine.engine.pages import PAGE, PagePool
from trine.engine.quantization import rounded_to_int8
from trine.engine.request import Request, SampledToken
from trine.engine.rows import Row, prompt_calls
from trine.engine.runner import Chunk, Runner
from trine.engine.sampler import sample_next
from trine.engine.sampling import Sampling
from trine.engine.speculation import decode_draft
from trine.engine.torch_runner import TorchRunner
from trine.engine.weights_name import name_weights
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
# Below this, looking for draft tokens costs more than a token.
MIN_DRAFTED_STEP_SECONDS = 0.002


class Engine:
    """Generates from one model, in one thread at a time (`EngineWorker` shares it between threads).

    >>> engine = Engine(model)
    >>> [rollout] = engine.generate([[1, 2, 3]], Sampling(max_new_tokens=4, temperature=0.0))
    >>> len(rollout.response_ids)
    4
    >>> new_ids = [token_id for part in engine.stream([1, 2, 3], Sampling(4, temperature=0.0)) for token_id in part]
    >>> new_ids == list(rollout.response_ids)
    True

    `rows` decode at a time; `cache_bytes` is the most that keys and values take (by default what `rows` rows of the
    whole context need, at most 4 GiB). `weights` "int8" halves what a step reads (quantization.py). `tokenizer` is
    needed for stop strings and constraints only. `native` None uses the compiled kernel where available. After the
    model's weights changed, `refresh` takes them over; `weights_name` is their hash, which every rollout carries.
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
        self.admission = Admission(self.pool, rows)
        self.one_thread = OneThread()
        self._step_seconds = SECONDS_A_CALL
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

    # Weights

    def refresh(self) -> None:
        """Take over the source model's weights as they are now."""
        self.load(self.source)

    def load(self, source: Transformer | Mapping[str, Tensor]) -> None:
        """Take over the weights of `source`, a model of the same shape or its plain state; adapters are merged in.

        What earlier weights computed is forgotten. Raises `TrineError` while a request is running.
        """
        weights = plain_weights(source) if isinstance(source, Transformer) else dict(source)
        if source is not self.source:
            check_weights(weights, plain_weights(self.source))
        with self.one_thread:
            self.admission.retire()
            if self.admission.active:
                raise TrineError(
                    f"the weights cannot change while {len(self.admission.active)} requests are running: finish or "
                    "cancel them first, or share the engine through EngineWorker, whose swap_weights waits for them"
                )
            self.pool.forget()
            rounded = self.weights == "int8" and not self.native
            self.runner.load(rounded_to_int8(weights) if rounded else weights)
            self.weights_name = name_weights(weights)

    # Whole batches

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        samples: int = 1,
        on_finished: Callable[[int], None] | None = None,
    ) -> list[Rollout]:
        """`samples` rollouts for each prompt, in order: all of prompt 0, then all of prompt 1 ...

        With one `sampling` the i-th rollout samples from (seed, i), so equal prompts get different answers; with one
        for each prompt every prompt samples from its own seed, sample j from (seed, j). `on_finished` is called with
        the number of rollouts finished since the last call. Raises `TrineError` when a prompt is empty or leaves no
        room for `max_new_tokens` in the model's context.
        """
        requests = self.make_requests(prompts, sampling, samples)
        with self.one_thread:
            self.admission.waiting.extend(requests)
            try:
                self._finish(requests, on_finished)
            finally:
                for request in requests:  # where something was raised, none may stay queued
                    request.cancel()
                self.admission.retire()
        return [request.rollout() for request in requests]

    def _finish(self, requests: Sequence[Request], on_finished: Callable[[int], None] | None) -> None:
        left = len(requests)
        while left:
            self.step()
            finished = left - sum(not request.done for request in requests)
            left -= finished
            if finished and on_finished is not None:
                on_finished(finished)

    def log_probs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probabilities of every response's tokens after its prompt, at `temperature`, without filters.

        Raises `TrineError` where a prompt or response is empty or too long for the context, or one lacks the other.
        """
        if len(prompts) != len(responses):
            raise TrineError(f"{len(prompts)} prompts come with {len(responses)} responses; give one for each")
        rows = [
            Continuation(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)
        ]
        for number, row in enumerate(rows):
            check_continuation(row.prompt, row.response, number, self.source.config)
        with self.one_thread:
            return response_log_probs(self.runner, self.pool, rows, temperature)

    def has_room(self, tokens: int) -> bool:
        """Whether the pages of a row of `tokens` positions are free now."""
        return -(-tokens // PAGE) <= self.pool.available

    # One request at a time

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Request:
        """Queue a prompt; `step` works on it."""
        return self.enqueue(*self.make_requests([prompt_ids], [sampling]))

    def enqueue(self, request: Request) -> Request:
        """Queue a request that `make_requests` has made."""
        with self.one_thread:
            self.admission.waiting.append(request)
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
                    request.raise_unless_finished()
                    return
                else:
                    self.step()
        finally:
            request.cancel()
            with suppress(TrineError), self.one_thread:  # where another thread steps, that frees the row
                self.admission.retire()

    def make_requests(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling], samples: int = 1
    ) -> list[Request]:
        """Checked requests in the order of `generate`, not yet queued. May be called from any thread."""
        shared = isinstance(sampling, Sampling)
        settings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(settings) != len(prompts):
            raise TrineError(
                f"{len(prompts)} prompts come with {len(settings)} samplings; give one for all, or one each"
            )
        if samples < 1:
            raise TrineError(f"samples={samples} asks for nothing; give at least 1")
        return [
            self._make_request(prompt, setting, number, sample, number * samples + sample if shared else sample)
            for number, (prompt, setting) in enumerate(zip(prompts, settings, strict=True))
            for sample in range(samples)
        ]

    def _make_request(
        self, prompt: Sequence[int], sampling: Sampling, number: int, sample: int, seed_row: int
    ) -> Request:
        check_prompt(prompt, number, sampling, self.source.config, self.pool.pages)
        check_sampling(sampling, self.source.config, has_tokenizer=self.tokenizer is not None)
        matcher = None
        if sampling.constraint is not None and self.constraints is not None:
            matcher = self.constraints.matcher(sampling.constraint, sampling.eos_ids)
        seed = derive_seed(sampling.seed, "row", seed_row)
        return Request(tuple(prompt), sampling, seed, matcher, prompt_index=number, sample=sample)

    # A step

    def step(self, *, admit: bool = True) -> list[Request]:
        """Start what has room (if `admit`), else decode all rows for a moment; the requests that finished by it.

        Where a call of the model raises, its requests fail; those that wait stay queued.
        """
        with self.one_thread:
            self.admission.retire()
            try:
                started = self.admission.admit(self.weights_name) if admit else []
                requests = [row.request for row in self.admission.active]
                self._advance(started)
            except BaseException as error:
                self.admission.abandon(error)
                self.runner.clear()
                raise
        return [request for request in requests if request.done]

    def _advance(self, started: Sequence[Row]) -> None:
        active = self.admission.active
        # The plain runner pads what it reads at once, so there prompts go alone and decoding follows.
        others = active[: len(active) - len(started)] if self.native else []
        self._read_prompts(started, others)
        self.admission.retire()
        if not (started and self.native):
            self._decode(list(self.admission.active))
            self.admission.retire()

    def _read_prompts(self, rows: Sequence[Row], others: Sequence[Row]) -> None:
        """Forward all prompts, `MAX_TOKENS` tokens at a time, and sample each row's first token.

        Rows that decode already come along, a token with each call: the weights are read anyway.
        """
        for batch in prompt_calls(rows):
            self._forward([*batch, *(row.next_chunk() for row in others if not row.request.done)])

    def _forward(self, batch: Sequence[tuple[Row, Chunk]]) -> None:
        """One call of the model, then a token for every row whose logits were wanted."""
        logits = self.runner.forward([chunk for _, chunk in batch])  # [B, V]
        for row, chunk in batch:
            row.decoding.position = chunk.start + len(chunk.ids)
        rows = [row for row, chunk in batch if chunk.wanted]
        if not rows:
            return
        tokens = sample_next(
            self.runner, logits, [row.request for row in rows], [row.decoding.sampling for row in rows]
        )
        for row, token in zip(rows, tokens, strict=True):
            row.accept(token, self.tokenizer)

    def _decode(self, active: Sequence[Row]) -> None:
        if not active:
            return
        if any(row.request.needs_logits for row in active):
            self._forward([row.next_chunk() for row in active])
            return
        speculates = self._speculates(active)
        if speculates and decode_draft(self.runner, active[0], self.tokenizer):
            return
        steps = min(row.request.budget for row in active)
        steps = max(1, min(steps, 1 if speculates else MAX_STEPS, int(SECONDS_A_CALL / self._step_seconds)))
        began = time.perf_counter()
        all_ids, all_log_probs = self.runner.decode([row.decoding for row in active], steps)
        self._step_seconds = max(1e-6, (time.perf_counter() - began) / len(all_ids))
        for ids, log_probs in zip(all_ids, all_log_probs, strict=True):
            for row, token_id, log_prob in zip(active, ids, log_probs, strict=True):
                if not row.request.done:
                    row.request.accept(SampledToken(token_id, log_prob), self.tokenizer)

    def _speculates(self, active: Sequence[Row]) -> bool:
        """One row alone, on the runner whose numbers do not depend on how many tokens are read at once."""
        return self.native and len(active) == 1 and self._step_seconds > MIN_DRAFTED_STEP_SECONDS


def _native_is_possible(model: Transformer) -> bool:
    on_cpu = model.output_weight.device.type == "cpu"
    return on_cpu and model.compute_dtype in (torch.float32, torch.bfloat16) and native_supports(model.config)
