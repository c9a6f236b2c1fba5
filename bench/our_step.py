"""Our own training step, as the pretraining loop makes it: loss as a sum over tokens, backward, clipping, optimizer.

The one place where the bench says what "ours" is in training; `training`, `memory`, `packing` and `ranks` all call it.
"""

from collections.abc import Sequence

import torch
from torch import nn

from trine.config.base import OptimizerConfig
from trine.data.rows import Batch
from trine.model.transformer import Transformer
from trine.stages.language_modelling import loss_sum
from trine.training.optimizers import make_optimizers, set_learning_rates

ADAMW = OptimizerConfig(kind="adamw", learning_rate=1e-4, weight_decay=0.1, warmup_share=0.0, decay="constant")


def optimizers_of(model: Transformer) -> list[torch.optim.Optimizer]:
    """AdamW as `training/optimizers.py` makes it, at a constant learning rate."""
    optimizers = make_optimizers(model.named_parameters(), ADAMW, model.config, model.compute_dtype)
    set_learning_rates(optimizers, 0, 1, ADAMW)
    return optimizers


def training_step(module: nn.Module, optimizers: list[torch.optim.Optimizer], batches: Sequence[Batch]) -> float:
    """One optimizer step of a `LanguageModelLoss` over micro-batches; the mean loss over their targets, in nats."""
    count = sum(batch.count for batch in batches)
    total = 0.0
    for batch in batches:
        loss = loss_sum(module, batch) / count
        loss.backward()
        total += float(loss.detach())
    finish_step(module, optimizers)
    return total


def finish_step(module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Clip the gradient, move the weights."""
    nn.utils.clip_grad_norm_(module.parameters(), ADAMW.clip_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
