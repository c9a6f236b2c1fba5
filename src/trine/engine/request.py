"""One prompt on its way to an answer, and when that answer ends. The first reason to stop is the one that stays."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, cast, get_args

from trine.engine.constraint import Matcher
from trine.engine.pages import PAGE, page_digests
from trine.engine.sampling import Sampling
from trine.records import Rollout, StopReason
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class SampledToken:
    """A token with its log-probability; what only filters or reports ask for is None without them."""

    id: int
    log_prob: float
    unfiltered_log_prob: float | None = None
    top_log_probs: tuple[tuple[int, float], ...] | None = None


@dataclass(eq=False)
class Request:
    """A handle: `ids` grow while the engine steps; `stop_reason` is None until the answer is whole.

    `log_probs` are of the distribution sampled from. With filters `unfiltered_log_probs` are the model's own at the
    same temperature. `top_log_probs` holds, for every position, pairs of id and log-probability of the
    model's own, most likely first. `error` says why where `stop_reason` is "failed". `weights` names the weights that
    write the answer; it is known when the request starts. `overtaken`: how many later requests started before it.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    matcher: Matcher | None = None
    prompt_index: int = 0
    sample: int = 0
    weights: str = ""
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    unfiltered_log_probs: list[float] = field(default_factory=list)
    top_log_probs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    stop_reason: StopReason | Literal["cancelled", "failed"] | None = None
    error: TrineError | None = None
    overtaken: int = 0
    _ending_lock: threading.RLock = field(default_factory=threading.RLock)

    @cached_property
    def digests(self) -> list[bytes]:
        """Of the full pages of the prompt that may be shared: the last token is always read anew, for its logits."""
        return page_digests(self.prompt_ids[:-1])

    @cached_property
    def pages_needed(self) -> int:
        """Pages for the prompt and all of its answer but the last token, which is never read."""
        return -(-(len(self.prompt_ids) + self.sampling.max_new_tokens - 1) // PAGE)

    @cached_property
    def filters(self) -> Sampling:
        """What is equal for requests whose logits pass the same filters."""
        return replace(self.sampling, seed=0, max_new_tokens=1)

    @property
    def done(self) -> bool:
        return self.stop_reason is not None

    @property
    def budget(self) -> int:
        """How many tokens may still come."""
        return self.sampling.max_new_tokens - len(self.ids)

    @property
    def needs_logits(self) -> bool:
        """Whether every token's logits have to be looked at one step at a time."""
        return self.sampling.filtered or self.sampling.top_log_probs > 0

    def fail(self, error: TrineError) -> None:
        """End this request with an error; the others go on."""
        self._end("failed", error)

    def cancel(self) -> None:
        """Stop: the engine frees the row before its next step. May be called from any thread."""
        self._end("cancelled")

    def _end(self, reason: StopReason | Literal["cancelled", "failed"], error: TrineError | None = None) -> None:
        with self._ending_lock:  # another thread may cancel at this moment, and so may a finalizer in this one
            if self.stop_reason is None:
                self.error, self.stop_reason = error, reason

    def accept(self, token: SampledToken, tokenizer: Tokenizer | None) -> None:
        """Write one token down, and see whether it ends the answer."""
        self.ids.append(token.id)
        self.log_probs.append(token.log_prob)
        if token.unfiltered_log_prob is not None:
            self.unfiltered_log_probs.append(token.unfiltered_log_prob)
        if token.top_log_probs is not None:
            self.top_log_probs.append(token.top_log_probs)
        if self.matcher is not None:
            self.matcher.accept(token.id)
        ending = self._ending(tokenizer)
        if ending is not None:
            self._end(ending)

    def raise_unless_finished(self) -> None:
        """Raise the request's error where it failed, and another where it was cancelled."""
        if self.error is not None:
            raise self.error
        if self.stop_reason == "cancelled":
            raise TrineError("the request was cancelled before its answer was finished")

    def _ending(self, tokenizer: Tokenizer | None) -> StopReason | None:
        if self.ids[-1] in self.sampling.eos_ids:
            return "eos"
        if self.ids[-1] in self.sampling.stop_ids:
            return "stop"
        if tokenizer is not None and self._says_stop_string(tokenizer):
            return "stop"
        return "length" if self.budget == 0 else None

    def _says_stop_string(self, tokenizer: Tokenizer) -> bool:
        """Whether the last token completed a stop string."""
        stops = self.sampling.stop_bytes
        if not stops:
            return False
        table, last = tokenizer.token_bytes, self.ids[-1]
        longest = max(map(len, stops)) - 1 + len(_bytes_of(table, last))
        tail = b""
        for token_id in reversed(self.ids):
            tail = _bytes_of(table, token_id) + tail
            if len(tail) >= longest:
                break
        return any(stop in tail[-longest:] for stop in stops)

    def outcome(self) -> Rollout | TrineError:
        """The finished answer, or why there is none."""
        try:
            return self.rollout()
        except TrineError as error:
            return error

    def rollout(self) -> Rollout:
        """The finished answer as a record; raises `TrineError` where it failed or was cancelled."""
        self.raise_unless_finished()
        assert self.stop_reason in get_args(StopReason)
        return Rollout(
            prompt_ids=self.prompt_ids,
            response_ids=tuple(self.ids),
            log_probs=tuple(self.log_probs),
            stop_reason=cast(StopReason, self.stop_reason),
            temperature=self.sampling.temperature,
            seed=self.sampling.seed,
            weights=self.weights,
            prompt_index=self.prompt_index,
            sample=self.sample,
            unfiltered_log_probs=tuple(self.unfiltered_log_probs) if self.sampling.filtered else None,
        )


def _bytes_of(table: Sequence[bytes], token_id: int) -> bytes:
    return table[token_id] if token_id < len(table) else b""
