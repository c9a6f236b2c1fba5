"""Trine's training step as its own commands run it: bf16 products over fp32 weights, AdamW, the allocator's setting."""

from pathlib import Path

import torch._dynamo  # noqa: F401  (torch.optim imports it at its first optimizer, transformers at once)
from torch import Tensor

import trine
from bench.our_step import optimizers_of, training_step
from bench.process_memory import ready_bytes
from bench.protocol import options, serve
from bench.training_runs import training_work
from trine.data.rows import window_batch
from trine.model.folder import load_model
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.stages.language_modelling import LanguageModelLoss

OPTIONS = options()
keep_freed_memory()
HARDWARE = choose_hardware("cpu", threads=OPTIONS["threads"])
IMPORTS = ready_bytes()
MODEL = load_model(Path(OPTIONS["folder"]), HARDWARE.compute_dtype, HARDWARE.device).train()
LOSS, OPTIMIZERS = LanguageModelLoss(MODEL), optimizers_of(MODEL)


def step(windows: Tensor) -> float:
    return training_step(LOSS, OPTIMIZERS, [window_batch(windows)])


if __name__ == "__main__":
    hello = {"trine": trine.__version__, "hardware": HARDWARE.description, "import_bytes": IMPORTS}
    serve(hello | {"allocator": "mallopt, as every command"}, training_work(step, MODEL.config.vocab_size))
