"""What is refused before it starts, with the value that is wrong and what to do."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from trine.engine.pages import PAGE
from trine.engine.sampling import Sampling
from trine.model.config import ModelConfig
from trine.runtime.errors import TrineError


def pages_needed(prompt: Sequence[int], sampling: Sampling) -> int:
    """Pages for a prompt and all of its answer but the last token, which is never read."""
    return -(-(len(prompt) + sampling.max_new_tokens - 1) // PAGE)


def check_prompt(prompt: Sequence[int], number: int, sampling: Sampling, config: ModelConfig, pages: int) -> None:
    """Raise `TrineError` unless prompt `number` is one the model can read and answer within `pages` of memory."""
    _check_ids(prompt, f"prompt {number}", config)
    if len(prompt) + sampling.max_new_tokens > config.context:
        raise TrineError(
            f"prompt {number} has {len(prompt)} tokens; with max_new_tokens={sampling.max_new_tokens} that is "
            f"more than the model's context of {config.context}: shorten the prompt or ask for fewer tokens"
        )
    need = pages_needed(prompt, sampling)
    if need > pages:
        raise TrineError(
            f"prompt {number} needs {need * PAGE} tokens of cache, more than the {pages * PAGE} there are; "
            "raise cache_bytes or ask for fewer tokens"
        )


def check_continuation(prompt: Sequence[int], response: Sequence[int], number: int, config: ModelConfig) -> None:
    """Raise `TrineError` unless the model can read prompt and response `number`."""
    _check_ids(prompt, f"prompt {number}", config)
    _check_ids(response, f"response {number}", config)
    if len(prompt) + len(response) - 1 > config.context:
        raise TrineError(
            f"prompt and response {number} have {len(prompt) + len(response)} tokens, more than the model's context of "
            f"{config.context}; shorten one of them"
        )


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `TrineError` unless `weights` have the names and shapes of `expected`."""
    for name in sorted({*weights, *expected}):
        if name not in weights or name not in expected:
            problem = "is missing from the weights" if name in expected else "is no weight of the engine's model"
            raise TrineError(f"{name} {problem}; give the weights of a model of the same shape")
        if weights[name].shape != expected[name].shape:
            raise TrineError(
                f"{name} has the shape {tuple(weights[name].shape)}, the engine's model {tuple(expected[name].shape)}; "
                "give the weights of a model of the same shape"
            )


def _check_ids(ids: Sequence[int], name: str, config: ModelConfig) -> None:
    if not ids:
        raise TrineError(f"{name} is empty; give at least one token")
    if not 0 <= min(ids) <= max(ids) < config.vocab_size:
        bad = next(token_id for token_id in ids if not 0 <= token_id < config.vocab_size)
        raise TrineError(f"{name} holds token id {bad}; the model has 0 to {config.vocab_size - 1}")


def check_sampling(sampling: Sampling, config: ModelConfig, *, has_tokenizer: bool) -> None:
    """Raise `TrineError` where this model, or an engine without tokenizer, cannot do what `sampling` asks."""
    for token_id in (*sampling.eos_ids, *sampling.stop_ids):
        if not 0 <= token_id < config.vocab_size:
            raise TrineError(
                f"eos_ids or stop_ids name token id {token_id}; the model has 0 to {config.vocab_size - 1}"
            )
    for token_id, bias in sampling.logit_bias:
        if not 0 <= token_id < config.vocab_size:
            raise TrineError(f"logit_bias names token id {token_id}; the model has 0 to {config.vocab_size - 1}")
        if not (abs(bias) <= 1000 or bias == -math.inf):
            raise TrineError(
                f"logit_bias of token {token_id} is {bias}; give -1000 to 1000, or -inf to forbid the token"
            )
    if sampling.top_log_probs > config.vocab_size:
        raise TrineError(
            f"top_log_probs={sampling.top_log_probs} is more than the {config.vocab_size} tokens there are"
        )
    for name in ("stop_strings", "constraint"):
        if getattr(sampling, name) and not has_tokenizer:
            raise TrineError(f"{name}: this needs the engine's tokenizer; make it with Engine(model, tokenizer=...)")
