"""Training 124M at a context of 1024, in bf16 and compiled: share of the chip's matrix rate, ratio to nanoGPT."""

from statistics import median

import torch

from bench.flops import flops_per_token
from bench.gpu.nanogpt import NanoGptStep, nanogpt_of
from bench.gpu.setting import Figures, Setting
from bench.our_step import optimizers_of, training_step
from trine.data.rows import window_batch
from trine.runtime.errors import TrineError
from trine.runtime.speed import product_flops
from trine.stages.language_modelling import LanguageModelLoss

LARGE_MEMORY = 60 << 30  # bytes that 16 rows at once, whose peer keeps all logits, need


def measure(setting: Setting) -> Figures:
    """Steps of both sides in turns, over the same random windows and from the same weights."""
    hardware, compiled = setting.hardware, not setting.tiny
    rows, tokens, steps, rounds = (2, 32, 1, 1) if setting.tiny else (_rows_at_once(setting), 1024, 10, 4)
    model = setting.model(hardware)
    peer = NanoGptStep(nanogpt_of(model).train(), hardware.device, compiled=compiled)
    loss, optimizers = LanguageModelLoss(model.train(), compiled=compiled), optimizers_of(model)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(model.config.vocab_size, (steps, rows, tokens + 1), generator=generator)
    windows = windows.to(hardware.device)
    batches = [window_batch(each) for each in windows]
    first = training_step(loss, optimizers, batches[:1]), float(peer(windows[0]))  # compiles both
    if abs(first[0] - first[1]) > 0.05:
        raise TrineError(f"the sides do not do the same: their first losses are {first[0]:.4f} and {first[1]:.4f}")
    works = {
        "ours": lambda: [training_step(loss, optimizers, [batch]) for batch in batches],
        "nanogpt": lambda: [float(peer(each)) for each in windows],
    }
    setting.in_turns(works, 0 if setting.tiny else 1)  # warms up
    found = setting.in_turns(works, rounds)
    speeds = {name: [steps * rows * tokens / seconds for seconds in runs] for name, runs in found.items()}
    ours, theirs = (median(speeds[name]) for name in ("ours", "nanogpt"))
    rate = product_flops(hardware)
    shares = {causal: ours * flops_per_token(setting.shape, tokens, causal=causal) / rate for causal in (False, True)}
    return {
        "rows": rows, "row_tokens": tokens, "compiled": compiled, "precision": hardware.precision,
        "first_losses": first, "tokens_per_second": ours, "nanogpt_tokens_per_second": theirs, "runs": speeds,
        "matmul_flops": rate, "matmul_share": shares[False], "matmul_share_causal": shares[True],
        "ratio_to_nanogpt": ours / theirs, "peak_bytes": _peak_bytes(setting),
    }  # fmt: skip


def _rows_at_once(setting: Setting) -> int:
    total = torch.cuda.get_device_properties(setting.hardware.device).total_memory if setting.device != "cpu" else 0
    return 16 if total > LARGE_MEMORY else 4


def _peak_bytes(setting: Setting) -> int:
    """Of both sides together."""
    return torch.cuda.max_memory_allocated(setting.hardware.device) if setting.device != "cpu" else 0
