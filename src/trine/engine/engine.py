"""The one place where Trine generates text: rollouts, evaluation, chat and server all use `Engine`.

Continuous batching (Yu et al. 2022): a row that ends makes room at once for the next prompt. Memory for keys and
values is paged and limited; a prompt waits until the pages it can need are free, and starts with the pages
of an earlier prompt's beginning where it shares it. Token ids in, token ids out.
Invariants: a request's tokens depend on the model, its prompt and its `Sampling` (seed included), not on its batch
(on the plain runner in bf16, where the summation order changes the rounding, up to that rounding); weights change
only between requests, by `refresh` and `load`; a request that fails fails alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from trine.engine.admission import Admission
from trine.engine.checks import (
    as_prompts,
    as_settings,
    check_continuation,
    check_request,
    check_sampling,
    check_weights,
    plain_source,
    score_temperature,
)
from trine.engine.constraint import Constraints
from trine.engine.failures import all_finished
from trine.engine.graph_runner import GraphRunner
from trine.engine.log_probs import Continuation, response_log_probs
from trine.engine.native.panels import Precision
from trine.engine.native.runner import NativeRunner, native_supports
from trine.engine.one_thread import OneThread
from trine.engine.pages import PAGE, PagePool
from trine.engine.quantization import KeptWeights, rounded_weights
from trine.engine.request import Request
from trine.engine.runner import MAX_TOKENS, Runner
from trine.engine.sampling import Sampling
from trine.engine.steps import Stepper
from trine.engine.torch_runner import TorchRunner
from trine.engine.values import callback, one_of, whole_number
from trine.engine.weights_name import name_weights
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer
from trine.records import Rollout
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed
from trine.tokenizer.tokenizer import Tokenizer

DEFAULT_CACHE_BYTES = 4 << 30


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
    whole context need, at most 4 GiB). `weights` "bf16" and "int8" keep them in fewer bits, which a step reads faster
    (quantization.py). `tokenizer` is needed for stop strings and constraints only. `native` None uses the compiled
    kernel where available. A step reads at most `prefill_tokens` tokens of prompts: fewer let running answers move on
    more often. After the model's weights changed, `refresh` takes them over; `weights_name` is their hash, which every
    rollout carries.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        rows: int = 128,
        cache_bytes: int | None = None,
        weights: KeptWeights = "compute",
        tokenizer: Tokenizer | None = None,
        native: bool | None = None,
        prefill_tokens: int = MAX_TOKENS,
    ) -> None:
        self.source, self.rows, self.tokenizer = model, _positive("rows", rows), tokenizer
        self.weights: KeptWeights = one_of("weights", weights, "compute", "bf16", "int8")
        self.constraints = Constraints(tokenizer, model.config.vocab_size) if tokenizer else None
        self.pool = PagePool(self._page_count(cache_bytes))
        self.native = _native_is_possible(model) if native is None else native
        if self.native and not _native_is_possible(model):
            raise TrineError(
                "native=True cannot be honoured: the compiled step needs a C++ compiler, a CPU, fp32 or bf16, and "
                "widths that are multiples of 16; leave native unset to run on PyTorch where that is missing"
            )
        self.runner = self._make_runner()
        self.stepper = Stepper(
            self.runner,
            tokenizer,
            prefill_tokens=min(MAX_TOKENS, _positive("prefill_tokens", prefill_tokens)),
            invariant=self.native,
        )
        self.admission = Admission(self.pool, self.rows)
        self.one_thread = OneThread()
        self.weights_name = ""
        self.refresh()

    def _page_count(self, cache_bytes: int | None) -> int:
        config, item = self.source.config, self.source.compute_dtype.itemsize
        page_bytes = 2 * config.layers * config.kv_heads * config.head_dim * PAGE * item
        wanted = self.rows * -(-config.context // PAGE)
        limit = DEFAULT_CACHE_BYTES if cache_bytes is None else whole_number("cache_bytes", cache_bytes)
        pages = min(wanted, limit // page_bytes)
        if pages < 1:
            raise TrineError(
                f"cache_bytes={cache_bytes} holds no page of {PAGE} tokens, which takes {page_bytes} bytes"
            )
        return pages

    def _make_runner(self) -> Runner:
        if not self.native:
            on_gpu = self.source.output_weight.device.type == "cuda"
            return (GraphRunner if on_gpu else TorchRunner)(self.source, self.pool.pages)
        computed: Precision = "fp32" if self.source.compute_dtype == torch.float32 else "bf16"
        return NativeRunner(
            self.source.config,
            rows=self.rows,
            pages=self.pool.pages,
            precision=computed if self.weights == "compute" else self.weights,
            threads=torch.get_num_threads(),
        )

    # Weights

    def refresh(self) -> None:
        """Take over the source model's weights as they are now."""
        self.load(self.source)

    def load(self, source: Transformer | Mapping[str, Tensor]) -> None:
        """Take over the weights of `source`, a model of the same shape or its plain state; adapters are merged in.

        What earlier weights computed is forgotten. Raises `TrineError`, and nothing has changed, while a request is
        running or where the weights do not fit.
        """
        weights = self.fitting_weights(source)
        with self.one_thread.call():
            self.admission.retire()
            if self.admission.active:
                raise TrineError(
                    f"the weights cannot change while {len(self.admission.active)} requests are running: finish or "
                    "cancel them first, or share the engine through EngineWorker, whose swap_weights waits for them"
                )
            name = name_weights(weights)
            self.pool.forget()
            self.weights_name = ""  # should the rest be broken off, these are nobody's weights
            self.runner.load(weights if self.native else rounded_weights(weights, self.weights))
            self.weights_name = name

    def fitting_weights(self, source: Transformer | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The plain state of `source`; raises `TrineError` where it is not of the engine's shape."""
        weights = plain_source(source)
        if source is not self.source:
            check_weights(weights, plain_weights(self.source))
        return weights

    def _check_whole_weights(self) -> None:
        if not self.weights_name:
            raise TrineError("the last change of weights was broken off half-way; call refresh() or load(...) again")

    # Whole batches

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        samples: int = 1,
        first: int = 0,
        on_finished: Callable[[int], None] | None = None,
    ) -> list[Rollout]:
        """`samples` rollouts for each prompt, in order: all of prompt 0, then all of prompt 1 ...

        With one `sampling` the i-th rollout samples from (seed, i), so equal prompts get different answers; with one
        for each prompt every prompt samples from its own seed, sample j from (seed, j). `first`: the number of the
        first prompt, where a batch is generated in several calls, or by several processes, as one call would.
        `on_finished` is called with the number of rollouts finished since the last call. Raises `TrineError` before
        anything starts where a prompt or its settings cannot be used, and `GenerationError`, which carries the other
        rollouts, where a request fails.
        """
        requests = self.make_requests(prompts, sampling, samples, first)
        callback("on_finished", on_finished)
        with self.one_thread:
            self.admission.waiting.extend(requests)
            try:
                self._finish(requests, on_finished)
            finally:
                for request in requests:  # where something was raised, none may stay queued
                    request.cancel()
                self._retire_if_idle()
        return all_finished([request.outcome() for request in requests])

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

        Where running requests hold the memory that this needs, they are stepped until there is room. Raises
        `TrineError` where a prompt or response is empty or too long for the context, or one lacks the other.
        """
        return self.log_probs_of(self.make_continuations(prompts, responses), score_temperature(temperature))

    def log_probs_of(self, rows: Sequence[Continuation], temperature: float) -> list[list[float]]:
        """`log_probs` of what `make_continuations` has made."""
        with self.one_thread:
            while not self.can_score(max((row.pages for row in rows), default=0)):
                self.step(admit=False)
            with self.one_thread.call():
                self._check_whole_weights()
                return response_log_probs(self.runner, self.pool, rows, temperature)

    def make_continuations(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[Continuation]:
        """Checked prompts with their responses. May be called from any thread."""
        given, answers = as_prompts(prompts), as_prompts(responses, "response")
        if len(given) != len(answers):
            raise TrineError(f"{len(given)} prompts come with {len(answers)} responses; give one for each")
        for number, (prompt, response) in enumerate(zip(given, answers, strict=True)):
            check_continuation(prompt, response, number, self.source.config, self.pool.pages)
        return [Continuation(*pair) for pair in zip(given, answers, strict=True)]

    def can_score(self, pages: int) -> bool:
        """Whether a row of `pages` can be scored now: no page is known whose content is still to be computed."""
        return not self.admission.active or (pages <= self.pool.available and not self.admission.reading)

    # One request at a time

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Request:
        """Queue a prompt; `step` works on it."""
        return self.enqueue(*self.make_requests([prompt_ids], [sampling]))

    def enqueue(self, request: Request) -> Request:
        """Queue a request that `make_requests` has made."""
        with self.one_thread.call():
            self.admission.waiting.append(request)
        return request

    def stream(self, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[list[int]]:
        """New ids of one answer as they come, from the first `next` on. Leaving the iterator early frees the row.

        Other streams may be read by turns in the same thread. Raises `TrineError` at once where the prompt or the
        settings cannot be used.
        """
        return self._stream(*self.make_requests([prompt_ids], [sampling]))

    def _stream(self, request: Request) -> Iterator[list[int]]:
        self.enqueue(request)
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
            self._retire_if_idle()

    def _retire_if_idle(self) -> None:
        """Free the rows of what is done, but for within a step, whose end frees them."""
        with suppress(TrineError), self.one_thread.call():
            self.admission.retire()

    def make_requests(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        samples: int = 1,
        first: int = 0,
    ) -> list[Request]:
        """Checked requests in the order of `generate`, not yet queued. May be called from any thread."""
        shared, samples = isinstance(sampling, Sampling), _positive("samples", samples)
        given = as_prompts(prompts)
        return [
            self._make_request(prompt, setting, number, sample, number * samples + sample if shared else sample)
            for number, (prompt, setting) in enumerate(
                zip(given, as_settings(sampling, len(given)), strict=True), first
            )
            for sample in range(samples)
        ]

    def _make_request(
        self, prompt: tuple[int, ...], sampling: Sampling, number: int, sample: int, seed_row: int
    ) -> Request:
        seed = derive_seed(sampling.seed, "row", seed_row)
        request = Request(prompt, sampling, seed, prompt_index=number, sample=sample)
        check_request(request, self.source.config, self.pool.pages)
        check_sampling(sampling, self.source.config, has_tokenizer=self.tokenizer is not None)
        if sampling.constraint is not None and self.constraints is not None:
            request.matcher = self.constraints.matcher(sampling.constraint, sampling.eos_ids)
        return request

    # A step

    def step(self, *, admit: bool = True) -> list[Request]:
        """Start what has room (if `admit`), then read a piece of the prompts, or decode all rows for a moment.

        The requests that finished by it. Where a call of the model raises, the requests that run fail; those that wait
        stay queued.
        """
        with self.one_thread.call():
            self._check_whole_weights()
            self.admission.retire()
            try:
                if admit:
                    self.admission.admit(self.weights_name)
                running = list(self.admission.active)
                self.stepper.advance(running)
                self.admission.retire()
            except BaseException as error:
                self.admission.abandon(error)
                raise
        return [row.request for row in running if row.request.done]


def _positive(name: str, value: int) -> int:
    number = whole_number(name, value)
    if number < 1:
        raise TrineError(f"{name}={number} asks for nothing; give at least 1")
    return number


def _native_is_possible(model: Transformer) -> bool:
    on_cpu = model.output_weight.device.type == "cpu"
    return on_cpu and model.compute_dtype in (torch.float32, torch.bfloat16) and native_supports(model.config)
