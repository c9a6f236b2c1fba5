"""Parameters, memory, tokens and time of a pretraining run before it is made, for `--dry-run`."""

from collections.abc import Mapping
from pathlib import Path

from trine.config.base import StageConfig
from trine.config.scale import block_parameters
from trine.config.stage import Estimate
from trine.config.text import PretrainConfig, TokenizerConfig
from trine.model.config import ModelConfig
from trine.runtime.device import choose_hardware
from trine.runtime.durations import spoken
from trine.runtime.errors import TrineError
from trine.runtime.speed import product_flops
from trine.stages.pretraining.objective import step_count
from trine.stages.pretraining.pretrain import model_config
from trine.tokenizer.tokenizer import Tokenizer

# Share of the rate of matrix products that a whole training step reaches on a CPU (docs/LOG.md: 0.70 to 0.74 in the run
# of `pretrain-laptop`, Muon's part included).
TRAINING_EFFICIENCY = 0.7
# What Python and PyTorch take before a model is there.
IMPORTS_GIB = 0.5
# Activations of a token kept for the backward pass, in widths of a layer.
ACTIVATIONS = 40


def estimate(config: PretrainConfig, earlier: Mapping[Path, StageConfig]) -> Estimate:
    """Lines for the terminal; without a tokenizer, trained or planned, the size of the model is not known."""
    try:
        shape = model_config(config.model, _vocab_size(config, earlier))
    except TrineError:
        return Estimate(("parameters: known once the tokenizer is trained",))
    memory = _memory(config, shape) / 2**30 + IMPORTS_GIB
    size = (f"parameters: {shape.parameter_count / 1e6:.1f}M", f"memory: about {memory:.1f} GiB")
    time = _time(config, shape)
    return Estimate((*size, *time.lines), time.seconds)


def _vocab_size(config: PretrainConfig, earlier: Mapping[Path, StageConfig]) -> int:
    planned = earlier.get(config.tokenizer)
    return planned.vocab_size if isinstance(planned, TokenizerConfig) else Tokenizer.load(config.tokenizer).vocab_size


def _time(config: PretrainConfig, shape: ModelConfig) -> Estimate:
    hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
    # 6 N for the weights, and attention's own products: 12 x layers x width x row (Chowdhery et al. 2022, appendix B).
    flops = 6 * shape.parameter_count + 12 * shape.layers * shape.width * config.row_tokens
    tokens_per_second = TRAINING_EFFICIENCY * product_flops(hardware) / flops
    speed = f"about {tokens_per_second:,.0f} tokens a second on {hardware.description}"
    steps = step_count(config)
    if steps is None:
        passes = f"{config.epochs:g} passes over the rows, counted once they are made"
        return Estimate((f"tokens: {passes}", f"time: {speed}, if the device is alone with the job"))
    tokens = steps * config.batch_size * config.row_tokens
    seconds = tokens / tokens_per_second
    return Estimate((f"tokens: {tokens:,} in {steps:,} steps", f"time: about {spoken(seconds)}: {speed}"), seconds)


def _memory(config: PretrainConfig, shape: ModelConfig) -> float:
    """Bytes of weights, gradients and moments, all fp32, and of the activations of a micro-batch, in bf16.

    AdamW keeps two moments of a weight, Muon one of a matrix.
    """
    matrices = block_parameters(shape.layers, shape.width)
    moments = 8 * shape.parameter_count - (4 * matrices if config.optimizer.kind == "muon" else 0)
    tokens = config.micro_batch_size * config.row_tokens
    return 8 * shape.parameter_count + moments + 2 * ACTIVATIONS * tokens * shape.layers * shape.width
