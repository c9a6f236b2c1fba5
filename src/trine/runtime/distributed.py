"""Several processes as one run: who each is, sums over all of them, and waiting for each other.

`torchrun --nproc-per-node 2 -m trine pretrain ...` starts them; without it there is one, `ALONE`, for which everything
here is a no-op. gloo connects processes on CPUs, NCCL those on GPUs. No process waits for one that has ended: a broken
connection ends the others with `QuietError`, and what is waited for at length is asked for, not blocked on.
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

# How long a process may be behind the others within a step.
STEP_TIMEOUT = timedelta(minutes=10)
SECONDS_BETWEEN_QUESTIONS = 0.05
DONE, FAILED = "done", "failed"


class KeyValueStore(Protocol):
    """What processes leave notes in for each other."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class World:
    """This process (`rank`) among the `size` of the run; `device` is where its tensors lie."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: KeyValueStore | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that logs, prints and writes."""
        return self.rank == 0

    def add_up(self, numbers: dict[str, float]) -> dict[str, float]:
        """Each number summed over all processes, which must bring the same names; in float64."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, numbers: dict[str, float]) -> dict[str, float]:
        """Each number's largest over all processes."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def _reduced(self, numbers: dict[str, float], operation: "dist.ReduceOp.RedOpType") -> dict[str, float]:
        if self.size == 1 or not numbers:
            return numbers
        names = sorted(numbers)
        values = torch.tensor([numbers[name] for name in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(values, operation)
        return dict(zip(names, values.tolist(), strict=True))

    def gathered(self, tensor: Tensor) -> Tensor:
        """Every process's `tensor` [n, ...], one below the other by rank: [size n, ...]."""
        if self.size == 1:
            return tensor
        result = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since PyTorch 2.13
        gather(result, tensor.contiguous())
        return result

    def share(self, total: int, name: str) -> tuple[int, int]:
        """(first, count) of this process's part of `total`; `TrineError` when it does not divide evenly."""
        if total % self.size:
            raise (TrineError if self.is_main else QuietError)(
                f"{name}={total} does not divide among {self.size} processes; choose a multiple of {self.size}"
            )
        count = total // self.size
        return self.rank * count, count

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.add_up({"here": 1.0})

    @contextmanager
    def main_first(self, name: str) -> Iterator[None]:
        """The main process does the block first, however long it takes; the others then find it done.

        `name` is unique in the run.
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
            time.sleep(SECONDS_BETWEEN_QUESTIONS)
        if store.get(name) != DONE.encode():
            stop_request.check()
            raise QuietError(f"process {self.rank} waited for one that failed: {name}")


ALONE = World()


@contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """The world that `torchrun` describes, connected; `ALONE` without it.

    Raises `QuietError` (or `Interrupted`, once a signal came) where another process ends before its time.
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
        gc.collect()  # a wrapped module is a cycle that holds on to the process group
        world.barrier()
    except RuntimeError as error:
        raise _what_happened(error) from error
    dist.destroy_process_group()


def _store(rank: int) -> Any:
    """The key-value store of this (re)start of the run; torchrun's agent may be its server already."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*place, is_master=rank == 0 and not served, timeout=STEP_TIMEOUT)
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _what_happened(error: RuntimeError) -> Exception:
    """A lost connection is the echo of what ended the other process, which says so itself."""
    lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)
    if not lost:
        return error
    if stop_request.received is not None:
        return Interrupted(stop_request.received)
    if launch().rank == 0 and "imed out" in str(error):  # nobody else has anything to say
        return TrineError(f"another process of this run did not answer for {STEP_TIMEOUT}: {error}")
    return QuietError(f"another process of this run ended: {error}")
