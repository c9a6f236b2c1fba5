"""What a command would do and what it would cost, without doing it: parameters, tokens, memory, time."""

from typing import Any

import yaml

from trine.config.align import PpoConfig
from trine.config.base import StageConfig
from trine.config.text import PretrainConfig
from trine.config.use import QuickstartConfig, RunConfig
from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError
from trine.runtime.speed import product_flops

# About the share of the matrix-product rate that a whole training step reaches on a CPU (docs/LOG.md: 222 ms for
# 2,048 tokens of 5.7M parameters is 0.37 of 850 GFLOP/s).
TRAINING_EFFICIENCY = 0.4


def describe(command: str, config: Any) -> str:
    """A text for the terminal."""
    if isinstance(config, QuickstartConfig):
        config = RunConfig(recipe="quickstart", **config.model_dump())
    if isinstance(config, RunConfig):
        return _describe_recipe(config)
    return "\n".join([_resolved(config), *_size(config)])


def _resolved(config: Any) -> str:
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)).rstrip()


def _describe_recipe(config: RunConfig) -> str:
    from trine.pipeline.recipes import load_recipe
    from trine.runtime.speed import time_factor

    recipe = load_recipe(
        config.recipe, config.out, config.seed, config.minutes, config.hardware, config.depth
    )
    lines = [f"# {recipe.title}"]
    for step in recipe.steps:
        lines += [f"## {step.name} (stage {step.stage})", _resolved(step.config), *_size(step.config)]
    hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
    lines.append(
        f"# all together: about {recipe.minutes * time_factor(hardware):.0f} minutes on {hardware.description}"
    )
    return "\n".join(lines)


def _size(config: StageConfig) -> list[str]:
    """Lines about parameters, tokens, memory and time, where they can be known before the run."""
    if isinstance(config, PretrainConfig):
        return _pretrain_size(config)
    if isinstance(config, PpoConfig):
        responses = config.iterations * config.batch_prompts
        return [f"# {responses:,} responses of up to {config.response_tokens} tokens, {config.epochs} epochs each"]
    return []


def _pretrain_size(config: PretrainConfig) -> list[str]:
    from trine.stages.pretrain import model_config, step_count
    from trine.tokenizer.tokenizer import Tokenizer

    try:
        vocab_size = Tokenizer.load(config.tokenizer).vocab_size
    except TrineError:
        return ["# parameters: known once the tokenizer is trained"]
    shape = model_config(config.model, vocab_size)
    hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
    tokens = step_count(config) * config.batch_rows * config.row_tokens
    flops = 6 * shape.parameter_count * tokens
    minutes = flops / (TRAINING_EFFICIENCY * product_flops(hardware)) / 60
    # fp32 weights, gradients and two moments; per token about 40 activations of the model's width per layer.
    weights = 16 * shape.parameter_count
    rows = config.micro_batch_rows * config.row_tokens
    activations = rows * shape.layers * shape.width * 40 * 2
    return [
        f"# parameters: {shape.parameter_count / 1e6:.1f}M",
        f"# tokens: {tokens:,} in {step_count(config):,} steps",
        f"# memory: about {(weights + activations) / 2**30 + 0.5:.1f} GiB",
        f"# time: about {minutes:.1f} minutes on {hardware.description}",
    ]
