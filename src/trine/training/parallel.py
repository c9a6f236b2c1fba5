"""One module trained by several processes: PyTorch's DistributedDataParallel, or FSDP2's `fully_shard`.

Gradients are summed over processes, not averaged: the loop has divided every term by its count over all
processes already. The module's forward has to be the whole loss, since both wrappers hook into forward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trine.runtime.distributed import ALONE, World

Kind = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True)
class Parallel:
    """The processes that train, and the wrapped module that reduces their gradients (None: one process).

    The reduced gradient is the sum divided by `divides_by` (DDP averages), so the loss is multiplied by it. (A
    communication hook that sums would have Python called from gloo's threads, which aborts if the process exits
    meanwhile.)
    """

    world: World = ALONE
    module: nn.Module | None = None
    divides_by: int = 1

    @contextmanager
    def gradients(self, *, last: bool) -> Iterator[None]:
        """Around a micro-batch's forward and backward pass: gradients are reduced in the last one only."""
        if isinstance(self.module, nn.parallel.DistributedDataParallel) and not last:
            with self.module.no_sync():
                yield
            return
        set_sync: Any = getattr(self.module, "set_requires_gradient_sync", None)
        if set_sync is not None:
            set_sync(last)
        yield


def parallelise(
    module: nn.Module, blocks: Sequence[nn.Module], world: World, kind: Kind, *, partly_used: bool = False
) -> Parallel:
    """Wrap `module` for the processes of `world`; call the result's `module` in its place.

    With fsdp each of `blocks` is gathered just before it runs, and parameters become shards (DTensor): make the
    optimizers after this. `partly_used`: there are steps in which some parameters get no gradient, the same in all
    processes.
    """
    if world.size == 1:
        return Parallel(world, module)
    return wrapped(module, blocks, world, kind, partly_used=partly_used)


def wrapped(
    module: nn.Module, blocks: Sequence[nn.Module], world: World, kind: Kind, *, partly_used: bool = False
) -> Parallel:
    """`parallelise` for any number of processes, one too, that PyTorch's process group knows."""
    if kind == "fsdp":
        return Parallel(world, _fully_sharded(module, blocks, world))
    replicated = nn.parallel.DistributedDataParallel(
        module,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=partly_used,
    )
    return Parallel(world, replicated, divides_by=world.size)


def _fully_sharded(module: nn.Module, blocks: Sequence[nn.Module], world: World) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    return module


def reshard(module: nn.Module | None) -> None:
    """Make the parameters of an FSDP module shards again, which a forward pass leaves gathered: before they are set."""
    to_shards: Any = getattr(module, "reshard", None)
    if to_shards is not None:
        to_shards()


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is sharded over the processes."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of one that may be sharded; every process calls this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients so that their norm over all parameters is at most `max_norm`; returns the norm before.

    A model of one parameter (a control agent) takes a shortcut: `clip_grad_norm_` would be a tenth of its step.
    """
    gradient = parameters[0].grad if len(parameters) == 1 else None
    if gradient is None or is_sharded(gradient):
        return float(whole(nn.utils.clip_grad_norm_(parameters, max_norm)))
    norm = float(torch.linalg.vector_norm(gradient))
    share = max_norm / (norm + 1e-6)
    if share < 1:
        gradient.mul_(share)
    return norm


def shard_like(tensor: Tensor, sharded: Any) -> Tensor:
    """This process's shard of `tensor`, which all processes hold in full, sharded as `sharded` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements, src_data_rank=None)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every full parameter by name; every process calls this."""
    return {name: whole(parameter.detach()) for name, parameter in model.named_parameters()}
