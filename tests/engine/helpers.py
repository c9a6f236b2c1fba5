"""What the engine's specifications share: decoding without an engine, counted tokens, a limited memory, a failure."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from trine.algorithms.text_log_probs import token_log_probs
from trine.engine.engine import Engine
from trine.engine.pages import PAGE
from trine.engine.request import Request
from trine.engine.runner import Chunk
from trine.model.config import ModelConfig
from trine.model.transformer import Transformer
from trine.records import Rollout


@torch.no_grad()
def next_logits(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Logits [V] after the last of `ids`: the whole row through the whole model."""
    return (model(torch.tensor([list(ids)]))[0, -1].to(model.output_weight.dtype) @ model.output_weight.T).detach()


def naive_greedy(model: Transformer, prompt: Sequence[int], budget: int, ends: tuple[int, ...] = ()) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + budget:
        ids.append(int(next_logits(model, ids).argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


@torch.no_grad()
def trainer_log_probs(model: Transformer, rollout: Rollout) -> Tensor:
    ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
    hidden = model(ids)[0, len(rollout.prompt_ids) - 1 : -1]
    return token_log_probs(hidden, model.output_weight, torch.tensor(rollout.response_ids), rollout.temperature)[0]


def responses(rollouts: Sequence[Rollout]) -> list[tuple[int, ...]]:
    return [rollout.response_ids for rollout in rollouts]


def finish(engine: Engine, requests: Sequence[Request], max_steps: int = 2000) -> list[list[int]]:
    """Step until all are done; their ids."""
    for _ in range(max_steps):
        if all(request.done for request in requests):
            return [request.ids for request in requests]
        engine.step()
    raise AssertionError(f"not done after {max_steps} steps")


def all_is_given_back(engine: Engine) -> bool:
    return engine.pool.available == engine.pool.pages


def cache_of(config: ModelConfig, pages: int, item: int = 4) -> int:
    """The bytes that `pages` pages take."""
    return pages * 2 * config.layers * config.kv_heads * config.head_dim * PAGE * item


def watch_forward(engine: Engine, monkeypatch: pytest.MonkeyPatch, watch: Callable[[Sequence[Chunk]], None]) -> None:
    """`watch` sees what the runner is given to read before it reads it."""
    forward = engine.runner.forward

    def watched(runs: Sequence[Chunk]) -> Tensor:
        watch(runs)
        return forward(runs)

    monkeypatch.setattr(engine.runner, "forward", watched)


def count_tokens_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of tokens of every call of the model."""
    counts: list[int] = []
    watch_forward(engine, monkeypatch, lambda runs: counts.append(sum(len(run.ids) for run in runs)))
    return counts


def fail_at_call(engine: Engine, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Call `number` of the model from now on (0 is the next) raises, once."""
    calls = iter(range(10**9))

    def fail(runs: Sequence[Chunk]) -> None:
        if next(calls) == number:
            raise MemoryError("as if there were none left")

    watch_forward(engine, monkeypatch, fail)
