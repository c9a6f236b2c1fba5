"""Rank and world size of this process, from the environment that `torchrun` sets. Imports nothing heavy."""

import os
from dataclasses import dataclass

from trine.runtime.errors import QuietError, TrineError


@dataclass(frozen=True)
class Launch:
    """`rank` of `size` processes, `local_rank` of `local_size` on this machine; without torchrun 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def one_process_only(what: str) -> None:
    """Raise `TrineError` if the run has several processes."""
    place = launch()
    if place.size > 1:
        message = f"{what} runs in one process and there are {place.size}; start it without torchrun"
        raise (TrineError if place.rank == 0 else QuietError)(message)


def launch() -> Launch:
    """This process among those that `torchrun` started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Launch(*(int(os.environ[name]) for name in names))
