"""Next-token prediction as one module, for one process or many: rows of ids in, the sum of their cross-entropy out.

Shapes: B rows, T time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trine.algorithms.text_log_probs import cross_entropy_sum
from trine.data.rows import Batch
from trine.model.config import ModelConfig
from trine.model.lora import add_lora, lora_layers
from trine.model.transformer import Transformer
from trine.runtime.device import Hardware
from trine.runtime.distributed import World
from trine.runtime.speed import product_flops
from trine.training.loop import Effort
from trine.training.parallel import is_sharded, whole_weights


class LanguageModelLoss(nn.Module):
    """The whole loss in one forward pass, which is what DDP and FSDP can wrap.

    `compiled`: the model's part of it goes through torch.compile; the loss stays as it is, a chunk of logits at a time.
    """

    def __init__(self, model: Transformer, *, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self._compiled = torch.compile(model.forward) if compiled else None

    def forward(self, ids: Tensor, targets: Tensor, weights: Tensor, **inputs: Any) -> Tensor:
        """Sum of weights * -log p(targets), in nats, a float64 scalar; `ids`, `targets`, `weights` [B, T].

        `inputs` are what else `Transformer.forward` takes.
        """
        hidden = (self._compiled or self.model)(ids, **inputs).flatten(0, 1)
        return cross_entropy_sum(hidden, self.model.output_weight, targets.flatten(), weights.flatten())


def loss_sum(module: nn.Module, batch: Batch) -> Tensor:
    """`LanguageModelLoss` (`module`, which may be wrapped) of a batch."""
    inputs = {} if batch.starts is None else {"positions": batch.positions, "starts": batch.starts}
    total: Tensor = module(batch.ids, batch.targets, batch.weights, **inputs)
    return total


def shared_loss_sum(module: nn.Module, batches: Sequence[Batch], world: World) -> tuple[float, float]:
    """(nats, targets) over all of `batches`, which the processes deal out among them.

    Every process takes as many turns, since FSDP gathers weights in each: who has no batch left goes along with one
    that does not count.
    """
    nats = count = 0.0
    for turn in range(0, len(batches), world.size):
        index = turn + world.rank
        batch = batches[index] if index < len(batches) else batches[0].without_weight()
        nats += float(loss_sum(module, batch))
        count += batch.count
    found = world.all_reduce_sum({"nats": nats, "count": count})
    return found["nats"], found["count"]


def training_flops_per_token(shape: ModelConfig, row_tokens: int) -> float:
    """Floating-point operations to train on a token of rows of `row_tokens` (Chowdhery et al. 2022, app. B).

    Six for each weight of a product, the output layer among them; twelve for each position attended to, by head and
    dimension. Attention is causal: on average that is half a row.
    """
    heads = 2 * shape.heads + 2 * shape.kv_heads  # q, k, v and out
    block = shape.width * (heads * shape.head_dim + shape.mlp_width * (3 if shape.mlp == "swiglu" else 2))
    attention = 12 * shape.layers * shape.heads * shape.head_dim * row_tokens / 2
    return 6 * (shape.layers * block + shape.vocab_size * shape.width) + attention


def measured_effort(shape: ModelConfig, row_tokens: int, hardware: Hardware, world: World) -> Effort:
    """What a token costs, beside the rate at which all processes at once multiply matrices, measured now."""
    world.barrier()
    rate = world.all_reduce_sum({"flops": product_flops(hardware)})["flops"]
    return Effort(training_flops_per_token(shape, row_tokens), rate)


def whole_model(model: Transformer) -> Transformer:
    """`model` as one process uses it: itself, or one on the CPU with all weights, adapters too, where it is sharded.

    Every process calls this; to sample from or to write a model that FSDP has spread.
    """
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    copy = Transformer(model.config, model.compute_dtype)
    adapted = next(iter(lora_layers(model).values()), None)
    if adapted is not None:
        add_lora(copy, adapted.settings, seed=0)
    copy.load_state_dict(whole_weights(model))
    return copy
