"""Our own training step, as the pretraining loop makes it: loss as a sum over tokens, backward, clipping, optimizer.

The one place where the bench says what "ours" is in training; `training`, `memory`, `packing` and `ranks` all call it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trine.algorithms.log_probs import cross_entropy_sum
from trine.config.base import OptimizerConfig
from trine.data.packing import PackedRows
from trine.model.transformer import Transformer
from trine.training.optimizers import make_optimizers, set_learning_rates

ADAMW = OptimizerConfig(kind="adamw", learning_rate=1e-4, weight_decay=0.1, warmup_share=0.0, decay="constant")


@dataclass(frozen=True)
class Rows:
    """`ids`, `targets` [R, T] int64; `weights` [R, T] fp32, 0 where there is no target.

    `packed`: where attention and positions restart, if rows hold several documents.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    packed: PackedRows | None = None


def whole_rows(windows: Tensor) -> Rows:
    """Windows [R, T + 1], every token but the first a target."""
    return Rows(windows[:, :-1], windows[:, 1:], torch.ones(windows.shape[0], windows.shape[1] - 1))


class LossSum(nn.Module):
    """Cross-entropy of rows as a sum over tokens, in nats."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Rows) -> Tensor:
        if rows.packed is None:
            hidden = self.model(rows.ids)
        else:
            bias = rows.packed.bias(self.model.compute_dtype)
            hidden = self.model(rows.ids, positions=rows.packed.positions, bias=bias)
        targets, weights = rows.targets.flatten(), rows.weights.flatten()
        return cross_entropy_sum(hidden.flatten(0, 1), self.model.output_weight, targets, weights)


def optimizers_of(model: Transformer) -> list[torch.optim.Optimizer]:
    """AdamW as `training/optimizers.py` makes it, at a constant learning rate."""
    optimizers = make_optimizers(model.named_parameters(), ADAMW, model.config, model.compute_dtype)
    set_learning_rates(optimizers, 0, 1, ADAMW)
    return optimizers


def training_step(loss_sum: nn.Module, optimizers: list[torch.optim.Optimizer], batches: Iterable[Rows]) -> float:
    """One optimizer step over micro-batches; the mean loss over their targets, in nats."""
    batches = list(batches)
    count = sum(float(rows.weights.sum()) for rows in batches)
    total = 0.0
    for rows in batches:
        loss = loss_sum(rows) / count
        loss.backward()
        total += float(loss.detach())
    finish_step(loss_sum, optimizers)
    return total


def finish_step(loss_sum: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Clip the gradient, move the weights."""
    nn.utils.clip_grad_norm_(loss_sum.parameters(), ADAMW.clip_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
