"""AdamW, and Muon for the matrices (Jordan et al. 2024) with AdamW for the rest.

Muon replaces the momentum of a weight matrix by its nearest orthogonal matrix, found by five Newton-Schulz steps.
It differs from `torch.optim.Muon` only in speed: matrices of one shape are orthogonalised together in one
batched product (a test compares it with PyTorch's step). A fused weight (q, k and v in one tensor) is
orthogonalised block by block, so that fusing is invisible to the optimizer.

Weight decay goes to matrices; norms, biases and embeddings have none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trine.config.base import OptimizerConfig
from trine.model.config import ModelConfig
from trine.model.families import fused_blocks
from trine.runtime.distributed import ALONE, World
from trine.training.parallel import is_sharded, shard_like, whole
from trine.training.schedules import learning_rate_share

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# Elements of the matrices that a process updates at once: enough for batched products, not a copy of the whole model.
GROUP = 1 << 23
Matrix = tuple[nn.Parameter, list[int]]  # a weight and the row counts of its fused parts


def orthogonalize(matrices: Tensor, steps: int, compute_dtype: torch.dtype) -> Tensor:
    """Nearest semi-orthogonal matrices to a batch [N, m, n] by Newton-Schulz iteration, singular values near 1.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers", quintic iteration.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(compute_dtype)
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if transposed else x


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters. `blocks` in a group gives, per parameter, the row counts of its fused parts.

    Processes that all have the gradient share the orthogonalising and exchange what they found; where parameters are
    sharded, a matrix's update is gathered first and each process keeps its own rows of the direction.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        learning_rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        compute_dtype: torch.dtype = torch.bfloat16,
        world: World = ALONE,
    ) -> None:
        self.steps = steps
        self.compute_dtype = compute_dtype
        self.world = world
        super().__init__(params, {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; overwrites the gradients, whose memory holds the updates."""
        for group in self.param_groups:
            pairs = zip(group["params"], group["blocks"], strict=True)
            updated = [(parameter, rows) for parameter, rows in pairs if parameter.grad is not None]
            for matrices in grouped(updated, GROUP * self.world.size):
                self._apply(matrices, group)

    def _apply(self, matrices: list[Matrix], group: dict[str, Any]) -> None:
        parts = [part for parameter, rows in matrices for part in self._update(parameter, group).split(rows)]
        directions = iter(self._directions(parts))
        targets: list[Tensor] = []
        steps: list[Tensor] = []
        for parameter, rows in matrices:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            found = [next(directions) for _ in rows]
            if is_sharded(parameter):
                targets.append(parameter)
                steps.append(shard_like(torch.cat(found), parameter))
            else:
                targets += parameter.split(rows)
                steps += found
        torch._foreach_add_(targets, steps, alpha=-group["lr"])

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov momentum of a full matrix, computed in the memory of its gradient."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - group["momentum"])
        return whole(parameter.grad.lerp_(momentum, group["momentum"]))

    def _directions(self, parts: list[Tensor]) -> list[Tensor]:
        """Each of `parts` orthogonalised and scaled where it is tall; those of one shape in one batch."""
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for index, part in enumerate(parts):
            by_shape[part.shape].append(index)
        found: dict[int, Tensor] = {}
        for (height, width), indices in by_shape.items():
            stacked = torch.stack([parts[index].to(self.compute_dtype) for index in indices])
            directions = self._orthogonalized(stacked).float()
            if height > width:
                directions *= (height / width) ** 0.5
            found |= zip(indices, directions.unbind(), strict=True)
        return [found[index] for index in range(len(parts))]

    def _orthogonalized(self, stacked: Tensor) -> Tensor:
        """`orthogonalize`, the matrices divided among the processes (the last ones may have fewer)."""
        each = -(-len(stacked) // self.world.size)
        own = stacked[self.world.rank * each :][:each]
        found = orthogonalize(own, self.steps, self.compute_dtype)
        if self.world.size == 1:
            return found
        padded = found.new_zeros(each, *stacked.shape[1:])
        padded[: len(own)] = found
        return self.world.all_gather(padded)[: len(stacked)]


def grouped(matrices: list[Matrix], max_elements: int) -> Iterator[list[Matrix]]:
    """`matrices` in groups of at most `max_elements` elements (or of a single matrix), sorted by shape.

    A function of shapes and order alone, so that all processes form the same groups.
    """
    group: list[Matrix] = []
    for matrix in sorted(matrices, key=lambda matrix: (matrix[0].shape, matrix[1])):
        if group and sum(parameter.numel() for parameter, _ in [*group, matrix]) > max_elements:
            yield group
            group = []
        group.append(matrix)
    if group:
        yield group


def make_optimizers(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimizerConfig,
    shape: ModelConfig,
    compute_dtype: torch.dtype,
    world: World = ALONE,
) -> list[torch.optim.Optimizer]:
    """The optimizers of `config` over a model's parameters; Muon takes the weight matrices of blocks.

    Frozen parameters are left out. `compute_dtype` is that of Muon's matrix products, unless `config.newton_schulz` is
    fp32; `world` divides them among its processes.
    """
    matrices: list[tuple[str, nn.Parameter]] = []
    others: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if "blocks." in name and parameter.dim() == 2:
            matrices.append((name, parameter))
        elif (name.endswith("head.weight") and len(parameter) == 1) or name.endswith("classifier.weight"):
            heads.append(parameter)
        else:
            others.append(parameter)
    plain = [
        {"weight_decay": 0.0, "params": others, "peak": config.learning_rate_rest},
        {"weight_decay": 0.0, "params": heads, "peak": config.learning_rate_head},
    ]
    adamw: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.epsilon, "fused": True}
    if config.kind == "adamw":
        weights = [parameter for _, parameter in matrices]
        decayed = {"weight_decay": config.weight_decay, "params": weights, "peak": config.learning_rate}
        plain[0]["peak"] = config.learning_rate
        return [torch.optim.AdamW([decayed, *plain], **adamw)]
    group = {
        "peak": config.learning_rate,
        "params": [parameter for _, parameter in matrices],
        "blocks": [fused_blocks(name, shape) or [len(parameter)] for name, parameter in matrices],
    }
    dtype = torch.float32 if config.newton_schulz == "fp32" else compute_dtype
    muon = Muon([group], config.learning_rate, config.momentum, config.weight_decay, compute_dtype=dtype, world=world)
    return [muon, torch.optim.AdamW(plain, **adamw)]


def set_learning_rates(
    optimizers: Iterable[torch.optim.Optimizer], step: int, steps: int, config: OptimizerConfig
) -> float:
    """Give every group its learning rate at `step`, by `config` or its own `schedule`; returns that of the first."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(step, steps, group.get("schedule", config))
    return config.learning_rate * learning_rate_share(step, steps, config)


def give_schedule(optimizers: Iterable[torch.optim.Optimizer], config: OptimizerConfig) -> None:
    """Let all groups of these optimizers follow `config`'s schedule in place of the loop's."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["schedule"] = config
