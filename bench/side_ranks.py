"""Our training step in one process or in several under torch's launcher; rank 0 writes what it measured to a file.

Several ranks: DistributedDataParallel around the loss over gloo, gradients exchanged at a step's last micro-batch.
Options: `rows` and `tokens` of a micro-batch of one rank, `accumulate` micro-batches, `steps` timed after one that is
not, `threads` of a rank, `out`.
"""

import contextlib
import json
import os
import time
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bench.our_step import LossSum, finish_step, optimizers_of
from bench.protocol import options, random_prompts
from trine.data.rows import Batch, window_batch
from trine.model.folder import load_model
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware

OPTIONS = options()
RANKS = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))


def main() -> None:
    keep_freed_memory()
    hardware = choose_hardware(threads=OPTIONS["threads"])
    if RANKS > 1:
        distributed.init_process_group("gloo")
    model = load_model(Path(OPTIONS["folder"]), hardware.compute_dtype, hardware.device).train()
    optimizers = optimizers_of(model)
    loss_sum: nn.Module = LossSum(model)
    if RANKS > 1:
        loss_sum = DistributedDataParallel(loss_sum, gradient_as_bucket_view=True)
    losses = [_step(loss_sum, optimizers, 0, model.config.vocab_size)]
    if RANKS > 1:
        distributed.barrier()
    started = time.perf_counter()
    for number in range(1, OPTIONS["steps"] + 1):
        losses.append(_step(loss_sum, optimizers, number, model.config.vocab_size))
    if RANKS > 1:
        distributed.barrier()
    seconds = time.perf_counter() - started
    tokens = OPTIONS["steps"] * RANKS * OPTIONS["accumulate"] * OPTIONS["rows"] * OPTIONS["tokens"]
    if RANK == 0:
        result = {"seconds": seconds, "tokens": tokens, "losses": losses}
        Path(OPTIONS["out"]).write_text(json.dumps(result))
    if RANKS > 1:
        distributed.destroy_process_group()


def _step(loss_sum: nn.Module, optimizers: list[torch.optim.Optimizer], number: int, vocab_size: int) -> float:
    """One step over this rank's part of global batch `number`; the mean loss over all ranks."""
    batches = _batches(number, vocab_size)
    count = RANKS * sum(batch.count for batch in batches)  # every rank has as many
    total = torch.zeros((), dtype=torch.float64)
    for place, batch in enumerate(batches):
        apart = RANKS > 1 and place < len(batches) - 1
        with loss_sum.no_sync() if apart else contextlib.nullcontext():  # type: ignore[operator]
            loss = loss_sum(batch)
            (loss * RANKS / count).backward()  # DistributedDataParallel takes the mean over the ranks
        total += loss.detach().double()
    finish_step(loss_sum, optimizers)
    if RANKS > 1:
        distributed.all_reduce(total)
    return float(total) / count


def _batches(number: int, vocab_size: int) -> list[Batch]:
    """The global batch is the same however many ranks share it."""
    rows, accumulate = OPTIONS["rows"], OPTIONS["accumulate"]
    ids = torch.tensor(random_prompts(RANKS * rows * accumulate, OPTIONS["tokens"] + 1, vocab_size, number))
    return [window_batch(windows) for windows in ids.chunk(RANKS)[RANK].split(rows)]


if __name__ == "__main__":
    main()
