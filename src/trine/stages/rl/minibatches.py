"""Which rollouts an update learns from, and which of them a process reads at once.

Every epoch draws the minibatches anew. Within one, rollouts of like length stand side by side, so that micro-batches
hold little padding; where responses share the row of their prompt, those to one prompt do.
"""

from collections.abc import Sequence
from typing import Any

from trine.config.rl import PpoConfig
from trine.records import Rollout
from trine.runtime.distributed import World
from trine.runtime.seeds import generator_for


def minibatches_of(
    rollouts: Sequence[Rollout], config: PpoConfig, iteration: int, epoch: int, *, by_prompt: bool
) -> list[list[int]]:
    """Numbers of rollouts by minibatch."""
    size = config.minibatch_size
    order = generator_for(config.seed, "minibatch", iteration, epoch).permutation(len(rollouts)).tolist()
    keys: list[Any] = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
    if by_prompt:
        keys = [(len(rollout.prompt_ids), rollout.prompt_ids, len(rollout.response_ids)) for rollout in rollouts]
    return [sorted(order[start : start + size], key=keys.__getitem__) for start in range(0, len(order), size)]


def dealt(minibatches: Sequence[Sequence[int]], micro_batch_size: int, world: World) -> list[list[list[int]]]:
    """The share of this process by minibatch and micro-batch."""
    own = [list(rows[world.rank :: world.size]) for rows in minibatches]
    return [[rows[at : at + micro_batch_size] for at in range(0, len(rows), micro_batch_size)] for rows in own]
