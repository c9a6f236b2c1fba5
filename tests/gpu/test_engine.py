"""Decoding on a GPU: a captured step gives the plain runner's tokens, and new weights need no new graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.engine.helpers import responses, trainer_log_probs
from tests.gpu.device import DEVICE, GPU
from tests.tiny import ragged_prompts, scramble, tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.graph_runner import GraphRunner
from trine.engine.sampling import Sampling
from trine.engine.torch_runner import TorchRunner
from trine.engine.worker import EngineWorker
from trine.model.transformer import Transformer
from trine.records import Rollout

pytestmark = GPU

PROMPTS = ragged_prompts((2, 30, 9, 17, 5, 40, 3))
SETTINGS = [
    Sampling(
        length, temperature=0.9 if length % 3 else 0.0, seed=length, eos_ids=(4, 5), top_k=20 if length == 12 else 0
    )
    for length in (4, 40, 12, 20, 7, 25, 18)
]


def model_of(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Transformer:
    return tiny_model(tiny_config(family, context=256), seed, dtype).to(DEVICE)


def engine_of(model: Transformer, kind: Callable[..., Any] = GraphRunner) -> Engine:
    engine = Engine(model, rows=5, native=False)
    if DEVICE.type == "cuda" and kind is GraphRunner:
        assert type(engine.runner) is GraphRunner, "a GPU's engine takes it by itself"
        return engine
    engine.runner = engine.stepper.runner = kind(model, engine.pool.pages)
    engine.refresh()
    return engine


def generated(engine: Engine) -> list[Rollout]:
    return engine.generate(PROMPTS, SETTINGS)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_captured_tokens_are_the_plain_runners(family: str) -> None:
    model = model_of(family)
    captured, plain = (generated(engine_of(model, kind)) for kind in (GraphRunner, TorchRunner))
    assert responses(captured) == responses(plain)
    for ours, theirs in zip(captured, plain, strict=True):
        assert_close(torch.tensor(ours.log_probs), torch.tensor(theirs.log_probs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_tokens_are_those_of_a_cpu(family: str) -> None:
    cpu = Engine(tiny_model(tiny_config(family, context=256)), rows=5, native=False)
    assert responses(generated(engine_of(model_of(family)))) == responses(generated(cpu))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_log_probabilities_are_the_trainers(family: str) -> None:
    engine = engine_of(model_of(family))
    rollouts = [each for each in generated(engine) if each.temperature]
    scored = engine.log_probs([each.prompt_ids for each in rollouts], [each.response_ids for each in rollouts], 0.9)
    on_cpu = tiny_model(tiny_config(family, context=256))
    for rollout, found in zip(rollouts, scored, strict=True):
        assert_close(torch.tensor(found), trainer_log_probs(on_cpu, rollout), atol=1e-4, rtol=1e-4)


def test_bf16_samples_with_log_probabilities_near_those_of_fp32() -> None:
    exact = tiny_model(tiny_config("gpt2", context=256))
    for rollout in generated(engine_of(model_of("gpt2", torch.bfloat16))):
        if not rollout.temperature:
            continue
        expected = trainer_log_probs(exact, rollout)
        assert float((torch.tensor(rollout.log_probs) - expected).abs().mean()) < 0.1


def test_a_refresh_changes_the_weights_that_captured_steps_read() -> None:
    model = model_of("gpt2")
    engine = engine_of(model)
    first = responses(generated(engine))
    scramble(model, seed=9)
    engine.refresh()
    second = responses(generated(engine))
    assert second != first
    assert second == responses(generated(engine_of(model)))


def test_a_worker_captures_in_its_own_thread_while_another_uses_the_device() -> None:
    model = model_of("gpt2")
    expected = responses(generated(engine_of(model)))
    with EngineWorker(engine_of(model)) as worker:
        futures = [worker.submit(PROMPTS[0], SETTINGS[0]) for _ in range(4)]
        for size in range(1, 65):  # new memory and new shapes, while the worker captures
            torch.randn(size, 64, device=DEVICE) @ torch.randn(64, size, device=DEVICE)
        assert len({future.result().response_ids for future in futures}) == 1
        assert responses(worker.generate(PROMPTS, SETTINGS)) == expected
