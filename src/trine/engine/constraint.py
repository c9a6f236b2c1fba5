"""Answers of a given form: at every position a mask of the tokens that a grammar still allows, through llguidance.

llguidance keeps the grammar's state; a token may spell several terminals or part of one. The end tokens are allowed
exactly where the form is complete, whatever else they may spell, so that an answer that ends by itself has the form.
A grammar that cannot go on (nothing matches it, or it needs more memory than llguidance allows) is an error of its
request: llguidance itself would let such an answer end.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trine.engine.sampling import Constraint
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer

MAX_VOCABULARIES = 8  # one for every set of end ids that requests come with


class _Vocabulary:
    """A tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id, self.bos_token_id = eos_ids[0], tokenizer.bos_id
        unused = vocab_size - len(tokenizer.token_bytes)
        self.tokens = [*tokenizer.token_bytes, *[b""] * unused]
        self.special_token_ids = [i for i in tokenizer.special_ids if i < vocab_size]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Constraints:
    """Makes the matchers of one model's vocabulary, for requests from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self._vocabularies: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    def matcher(self, constraint: Constraint, eos_ids: tuple[int, ...]) -> "Matcher":
        """Raises `TrineError` where the constraint itself is no valid schema, expression or grammar."""
        llguidance = _llguidance()
        translate = {
            "json_schema": llguidance.LLMatcher.grammar_from_json_schema,
            "regex": llguidance.LLMatcher.grammar_from_regex,
            "lark": llguidance.LLMatcher.grammar_from_lark,
        }[constraint.kind]
        with _errors_as(f"the {constraint.kind} of the request cannot be used"):
            inner = llguidance.LLMatcher(self._vocabulary(eos_ids), translate(constraint.text), log_level=0)
            if inner.is_error():
                raise TrineError(_first_line(inner.get_error()))
            return Matcher(inner, self.vocab_size, eos_ids)

    def _vocabulary(self, eos_ids: tuple[int, ...]) -> Any:
        with self._lock:
            if eos_ids not in self._vocabularies:
                llguidance = _llguidance()
                if len(self._vocabularies) == MAX_VOCABULARIES:
                    self._vocabularies.clear()
                wrapper = llguidance.TokenizerWrapper(_Vocabulary(self.tokenizer, self.vocab_size, eos_ids))
                self._vocabularies[eos_ids] = llguidance.LLTokenizer(wrapper, self.vocab_size, list(eos_ids))
            return self._vocabularies[eos_ids]


class Matcher:
    """The state of one answer in its grammar."""

    def __init__(self, inner: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._inner, self._vocab_size, self._eos_ids = inner, vocab_size, list(eos_ids)
        # A form that nothing has is refused, and the longest work is done, before the request is in anybody's way.
        self._mask: Tensor | None = self._next_mask()

    def allowed(self) -> Tensor:
        """[V] bool: the tokens that may come next. Raises `TrineError` where the grammar cannot go on."""
        if self._mask is None:
            with _errors_as("the constraint of the request failed"):
                self._mask = self._next_mask()
        return self._mask

    def _next_mask(self) -> Tensor:
        import llguidance.numpy as masks

        bits = masks.allocate_token_bitmask(1, self._vocab_size)
        masks.fill_next_token_bitmask(self._inner, bits)
        if self._inner.is_error():
            raise TrineError(_reason(self._inner))
        words = torch.from_numpy(bits[0])
        allowed = ((words.unsqueeze(1) >> torch.arange(32)) & 1).flatten()[: self._vocab_size].bool()
        allowed[self._eos_ids] = self._inner.is_accepting()
        return allowed

    def accept(self, token_id: int) -> None:
        """The token was sampled. Raises `TrineError` where it was not allowed."""
        self._mask = None
        with _errors_as("the constraint of the request failed"):
            if token_id in self._eos_ids:
                if not self._inner.is_accepting():
                    raise TrineError(f"the answer ends with token {token_id} before it has the form that was asked for")
            elif not self._inner.consume_token(token_id):
                raise TrineError(f"token {token_id} does not fit the constraint: {_reason(self._inner)}")


def _reason(inner: Any) -> str:
    """Why a grammar stopped. llguidance's own word for an empty set of tokens is NoExtensionBias."""
    reason = _first_line(inner.get_error() or "it is at its end")
    return "there is no text of this form from here on" if reason == "NoExtensionBias" else reason


def _first_line(text: str) -> str:
    """The rest of llguidance's errors is its whole state."""
    return (text.splitlines() or [""])[0]


@contextmanager
def _errors_as(what: str) -> Iterator[None]:
    """Whatever llguidance raises as a `TrineError`; a panic of its Rust code is no `Exception`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise TrineError(f"{what}: {error}") from None


def _llguidance() -> Any:
    try:
        import llguidance
        from llguidance import _tokenizer  # noqa: F401
    except ImportError:
        raise TrineError("constrained output needs llguidance; install it with: pip install 'trine[serve]'") from None
    return llguidance
