"""What is refused before it starts, with the value that is wrong and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trine.engine.pages import PAGE
from trine.engine.request import Request
from trine.engine.sampling import Sampling
from trine.engine.values import item_list, real_number, shown, token_ids
from trine.model.config import ModelConfig
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError


def as_prompts(prompts: Any, what: str = "prompt") -> list[tuple[int, ...]]:
    """Lists of token ids, of any kind of list; `what` each is, in messages."""
    items = item_list(f"{what}s", prompts, "lists of token ids")
    return [token_ids(f"{what} {number}", each) for number, each in enumerate(items)]


def as_settings(sampling: Any, count: int) -> list[Sampling]:
    """A `Sampling` for each of `count` prompts, from one for all or one for each."""
    settings = [sampling] * count if isinstance(sampling, Sampling) else item_list("sampling", sampling, "Sampling")
    for each in settings:
        if not isinstance(each, Sampling):
            raise TrineError(f"sampling={shown(each)} is no Sampling; give Sampling(max_new_tokens, ...)")
    if len(settings) != count:
        raise TrineError(f"{count} prompts come with {len(settings)} samplings; give one for all, or one each")
    return settings


def check_request(request: Request, config: ModelConfig, pages: int) -> None:
    """Raise `TrineError` unless the model can read the request's prompt and answer it within `pages` of memory."""
    prompt, number, budget = request.prompt_ids, request.prompt_index, request.sampling.max_new_tokens
    _check_ids(prompt, f"prompt {number}", config)
    if len(prompt) + budget > config.context:
        raise TrineError(
            f"prompt {number} has {len(prompt)} tokens; with max_new_tokens={budget} that is "
            f"more than the model's context of {config.context}: shorten the prompt or ask for fewer tokens"
        )
    if request.pages_needed > pages:
        raise TrineError(
            f"prompt {number} needs {request.pages_needed * PAGE} tokens of cache, more than the {pages * PAGE} there "
            "are; raise cache_bytes or ask for fewer tokens"
        )


def check_continuation(
    prompt: Sequence[int], response: Sequence[int], number: int, config: ModelConfig, pages: int
) -> None:
    """Raise `TrineError` unless the model can read prompt and response `number` within `pages` of memory."""
    _check_ids(prompt, f"prompt {number}", config)
    _check_ids(response, f"response {number}", config)
    if len(prompt) + len(response) - 1 > config.context:
        raise TrineError(
            f"prompt and response {number} have {len(prompt) + len(response)} tokens, more than the model's context of "
            f"{config.context}; shorten one of them"
        )
    need = -(-(len(prompt) + len(response) - 1) // PAGE)
    if need > pages:
        raise TrineError(
            f"prompt and response {number} need {need * PAGE} tokens of cache, more than the {pages * PAGE} there are; "
            "raise cache_bytes or shorten one of them"
        )


def score_temperature(value: float) -> float:
    """Raise `TrineError` unless log-probabilities can be taken at this temperature."""
    temperature = real_number("temperature", value)
    if not 1e-4 <= temperature <= 1e4:
        raise TrineError(f"temperature={shown(value)} is not in [0.0001, 10000]; 1 takes the model as it is")
    return temperature


def plain_source(source: Any) -> dict[str, Tensor]:
    """The weights of a model, or a mapping of them, as a plain state."""
    if isinstance(source, Transformer):
        return plain_weights(source)
    if not isinstance(source, Mapping):
        raise TrineError(f"{shown(source)} is no model, nor a mapping of its weights by name")
    return dict(source)


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `TrineError` unless `weights` have the names and shapes of `expected`."""
    for name in sorted({*weights, *expected}, key=str):
        if name not in weights or name not in expected:
            problem = "is missing from the weights" if name in expected else "is no weight of the engine's model"
            raise TrineError(f"{name} {problem}; give the weights of a model of the same shape")
        if not isinstance(weights[name], Tensor) or not weights[name].is_floating_point():
            raise TrineError(f"{name} is {shown(weights[name])}; give a tensor of floating-point numbers")
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
    biased = tuple(token_id for token_id, _ in sampling.logit_bias)
    for name, ids in (("eos_ids", sampling.eos_ids), ("stop_ids", sampling.stop_ids), ("logit_bias", biased)):
        for token_id in ids:
            if not 0 <= token_id < config.vocab_size:
                raise TrineError(f"{name} names token id {token_id}; the model has 0 to {config.vocab_size - 1}")
    if sampling.top_log_probs > config.vocab_size:
        raise TrineError(
            f"top_log_probs={sampling.top_log_probs} is more than the {config.vocab_size} tokens there are"
        )
    for name in ("stop_strings", "constraint"):
        if getattr(sampling, name) and not has_tokenizer:
            raise TrineError(f"{name}: this needs the engine's tokenizer; make it with Engine(model, tokenizer=...)")
