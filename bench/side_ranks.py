"""Our training step in one process or in several under torch's launcher; rank 0 writes what it measured to a file.

Several ranks as `trine pretrain` runs them: DistributedDataParallel over gloo, gradients exchanged at a step's last
micro-batch. Options: `rows` and `tokens` of a micro-batch of one rank, `accumulate` micro-batches, `steps` timed after
one that is not, `threads` of a rank, `out`.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from bench.our_step import finish_step, optimizers_of
from bench.protocol import options, random_prompts
from trine.data.rows import Batch, window_batch
from trine.model.folder import load_model
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.runtime.distributed import World, open_world
from trine.stages.language_modelling import LanguageModelLoss, loss_sum
from trine.training.parallel import Parallel, parallelise

OPTIONS = options()


def main() -> None:
    keep_freed_memory()
    hardware = choose_hardware(threads=OPTIONS["threads"])
    with open_world(hardware.device) as world:
        model = load_model(Path(OPTIONS["folder"]), hardware.compute_dtype, hardware.device).train()
        optimizers = optimizers_of(model)
        parallel = parallelise(LanguageModelLoss(model), list(model.blocks), world, "ddp")
        losses = [_step(parallel, optimizers, 0, model.config.vocab_size)]
        world.barrier()
        started = time.perf_counter()
        for number in range(1, OPTIONS["steps"] + 1):
            losses.append(_step(parallel, optimizers, number, model.config.vocab_size))
        world.barrier()
        seconds = time.perf_counter() - started
        tokens = OPTIONS["steps"] * world.size * OPTIONS["accumulate"] * OPTIONS["rows"] * OPTIONS["tokens"]
        if world.is_main:
            Path(OPTIONS["out"]).write_text(json.dumps({"seconds": seconds, "tokens": tokens, "losses": losses}))


def _step(parallel: Parallel, optimizers: list[torch.optim.Optimizer], number: int, vocab_size: int) -> float:
    """One step over this rank's part of global batch `number`; the mean loss over all ranks."""
    assert parallel.module is not None
    batches = _batches(number, vocab_size, parallel.world)
    count = parallel.world.all_reduce_sum({"count": sum(batch.count for batch in batches)})["count"]
    total = 0.0
    for place, batch in enumerate(batches):
        with parallel.gradients(last=place == len(batches) - 1):
            loss = loss_sum(parallel.module, batch) / count
            loss.backward()
        total += float(loss.detach())
    finish_step(parallel.module, optimizers)
    return parallel.world.all_reduce_sum({"loss": total})["loss"]


def _batches(number: int, vocab_size: int, world: World) -> list[Batch]:
    """The global batch is the same however many ranks share it."""
    rows, accumulate = OPTIONS["rows"], OPTIONS["accumulate"]
    ids = torch.tensor(random_prompts(world.size * rows * accumulate, OPTIONS["tokens"] + 1, vocab_size, number))
    return [window_batch(windows) for windows in ids.chunk(world.size)[world.rank].split(rows)]


if __name__ == "__main__":
    main()
    # As `python -m trine` leaves where there are several: gloo's threads may still want an interpreter taken down.
    sys.stdout.flush()
    os._exit(0)
