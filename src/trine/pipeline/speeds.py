"""How fast this machine, as it is now, trains a model of a certain shape and samples from it: measured in some seconds.

The steps are those of pretraining (loss, backward pass, optimizers) and of the engine, on random tokens.
"""

import ast
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trine.config.text import PretrainConfig
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.config import ModelConfig
from trine.model.transformer import Transformer, initialize
from trine.runtime.device import Hardware
from trine.stages.language_modelling import LanguageModelLoss
from trine.training.optimizers import make_optimizers

ROWS, PROMPT_TOKENS, NEW_TOKENS = 128, 40, 16


@dataclass(frozen=True)
class Speeds:
    """Tokens a second, forward, backward and update; tokens sampled a second; the same file parsed, times a second."""

    training: float
    sampling: float
    parsing: float


def measured_speeds(shape: ModelConfig, config: PretrainConfig, hardware: Hardware, seconds: float = 1.0) -> Speeds:
    """Speeds of a model of `shape` at the batch of `config`, each measured for about `seconds` (or once, if longer)."""
    model = Transformer(shape, hardware.compute_dtype)
    initialize(model, seed=0)
    model.to(hardware.device)
    rate = _rate(_training_step(model, config, hardware), seconds)
    engine = Engine(model, rows=ROWS)
    return Speeds(
        rate * config.batch_size * config.row_tokens,
        _rate(_sampling(engine, shape.vocab_size), seconds) * ROWS * NEW_TOKENS,
        _rate(_parsing(), seconds / 4),
    )


def _rate(work: Callable[[], object], seconds: float) -> float:
    """How often a second `work` is done; the first time, which may compile or reserve memory, does not count."""
    work()
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - started < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - started)


def _training_step(model: Transformer, config: PretrainConfig, hardware: Hardware) -> Callable[[], object]:
    optimizers = make_optimizers(model.named_parameters(), config.optimizer, model.config, hardware.compute_dtype)
    generator = torch.Generator().manual_seed(0)
    size = (config.batch_size, config.row_tokens + 1)
    rows = torch.randint(model.config.vocab_size, size, generator=generator).to(hardware.device)
    module, weights = LanguageModelLoss(model), torch.ones(rows[:, 1:].shape, device=hardware.device)

    def step() -> float:
        loss = module(rows[:, :-1], rows[:, 1:], weights) / weights.numel()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())  # waits for the device

    return step


def _sampling(engine: Engine, vocab_size: int) -> Callable[[], object]:
    prompts = np.random.default_rng(0).integers(vocab_size, size=(ROWS, PROMPT_TOKENS)).tolist()
    return lambda: engine.generate(prompts, Sampling(NEW_TOKENS, 1.0, seed=0))


def _parsing() -> Callable[[], object]:
    text = Path(ast.__file__).read_text("utf-8")
    return lambda: ast.parse(text)
