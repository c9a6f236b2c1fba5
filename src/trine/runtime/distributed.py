"""Distributed training: the rank of each process, reductions over all of them, and synchronisation.

`torchrun --nproc-per-node 2 -m trine pretrain ...` starts the processes. Without torchrun there is one, `ALONE`, and
everything here is a no-op. CPUs communicate by gloo, GPUs by NCCL. No process waits for one that has ended: a lost
connection ends the others with `QuietError`, and long waits poll the store, so that signals are noticed.
"""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from trine.runtime.errors import QuietError, TrineError
from trine.runtime.launch import launch
from trine.runtime.signals import Interrupted, stop_request

# How long one process may lag behind the others within a step.
STEP_TIMEOUT = timedelta(minutes=10)
POLL_SECONDS = 0.05
DONE, FAILED = "done", "failed"


class KeyValueStore(Protocol):
    """The part of PyTorch's key-value store that is used here."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class World:
    """This process (`rank`) among the `size` processes of the run; its tensors are on `device`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: KeyValueStore | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only process that logs, prints and writes."""
        return self.rank == 0

    def all_reduce_sum(self, numbers: dict[str, float]) -> dict[str, float]:
        """Sum each number over all processes, in float64; every process passes the same names."""
        return self._all_reduce(numbers, dist.ReduceOp.SUM)

    def all_reduce_max(self, numbers: dict[str, float]) -> dict[str, float]:
        """The maximum of each number over all processes."""
        return self._all_reduce(numbers, dist.ReduceOp.MAX)

    def _all_reduce(self, numbers: dict[str, float], operation: "dist.ReduceOp.RedOpType") -> dict[str, float]:
        if self.size == 1 or not numbers:
            return numbers
        names = sorted(numbers)
        values = torch.tensor([numbers[name] for name in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(values, operation)
        return dict(zip(names, values.tolist(), strict=True))

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the `tensor` [n, ...] of every process in the order of ranks: [size * n, ...]."""
        if self.size == 1:
            return tensor
        result = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since PyTorch 2.13
        gather(result, tensor.contiguous())
        return result

    def share(self, total: int, name: str) -> tuple[int, int]:
        """(first, count) of this process's share of `total`; raises `TrineError` if it does not divide evenly."""
        if total % self.size:
            raise (TrineError if self.is_main else QuietError)(
                f"{name}={total} does not divide among {self.size} processes; choose a multiple of {self.size}"
            )
        count = total // self.size
        return self.rank * count, count

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        self.all_reduce_sum({"here": 1.0})

    @contextmanager
    def main_first(self, name: str) -> Iterator[None]:
        """Run the block on rank 0 first, however long it takes, and on the others after it has finished.

        `name` must be unique in the run.
        """
        if self.store is None:
            yield
        elif self.is_main:
            outcome = FAILED
            try:
                yield
                outcome = DONE
            finally:
                self.store.set(name, outcome)
        else:
            self._wait_for(self.store, name)
            yield

    def _wait_for(self, store: KeyValueStore, name: str) -> None:
        while not store.check([name]):
            stop_request.check()
            time.sleep(POLL_SECONDS)
        if store.get(name) != DONE.encode():
            stop_request.check()
            raise QuietError(f"process {self.rank} waited for one that failed: {name}")


ALONE = World()


@contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """Connect the processes that `torchrun` started; without torchrun, a world of one process.

    Raises `QuietError` (or `Interrupted`, after a signal) if another process ends early.
    """
    place = launch()
    if place.size == 1:
        yield World(device=device)
        return
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _store(place.rank)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", store), rank=place.rank, world_size=place.size, timeout=STEP_TIMEOUT,
    )  # fmt: skip
    world = World(place.rank, place.size, place.local_rank, device, PrefixStore("trine", store))
    try:
        yield world
        gc.collect()  # a wrapped module is a reference cycle that keeps the process group alive
        world.barrier()
    except RuntimeError as error:
        raise _explained(error) from error
    dist.destroy_process_group()


def _store(rank: int) -> Any:
    """The key-value store of this (re)start of the run; torchrun's agent may already serve it."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*place, is_master=rank == 0 and not served, timeout=STEP_TIMEOUT)
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _explained(error: RuntimeError) -> Exception:
    """Name the cause of a lost connection: the process that ended first reports its own error."""
    lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)
    if not lost:
        return error
    if stop_request.received is not None:
        return Interrupted(stop_request.received)
    if launch().rank == 0 and "imed out" in str(error):  # a timeout: no other process reports an error
        return TrineError(f"another process of this run did not answer for {STEP_TIMEOUT}: {error}")
    return QuietError(f"another process of this run ended: {error}")
