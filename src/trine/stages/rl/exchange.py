"""Rollouts as bytes: what a checkpoint in the middle of an iteration holds, and what processes tell each other.

JSON, whose numbers read back are the numbers that were written, to the last bit.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from trine.records import Rollout
from trine.runtime.distributed import World


def rollouts_as_bytes(rollouts: Sequence[Rollout]) -> Tensor:
    """One uint8 tensor [n] that `rollouts_from_bytes` reads."""
    text = json.dumps([asdict(rollout) for rollout in rollouts], separators=(",", ":"))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def rollouts_from_bytes(data: Tensor) -> list[Rollout]:
    """The very rollouts that `rollouts_as_bytes` was given."""
    return [Rollout(**{name: _frozen(value) for name, value in each.items()}) for each in json.loads(_bytes(data))]


def gather_rollouts(world: World, own: Sequence[Rollout]) -> list[Rollout]:
    """Those of every process, in the order of ranks; every process calls this."""
    if world.size == 1:
        return list(own)
    data = rollouts_as_bytes(own).to(world.device)
    sizes = world.all_gather(torch.tensor([len(data)], device=world.device)).tolist()
    padded = data.new_zeros(max(sizes))
    padded[: len(data)] = data
    parts = world.all_gather(padded).split(max(sizes))
    return [each for part, size in zip(parts, sizes, strict=True) for each in rollouts_from_bytes(part[:size])]


def sum_over_processes(world: World, values: Tensor) -> Tensor:
    """The sum of every process's `values` (of one shape); exact where all but one hold zeros."""
    if world.size == 1:
        return values
    return world.all_gather(values.to(world.device).unsqueeze(0)).sum(0).to(values.device)


def _bytes(data: Tensor) -> bytes:
    return bytes(data.cpu().numpy())


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
