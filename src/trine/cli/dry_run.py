"""What a command would do and what it would cost, without doing it: parameters, tokens, memory, time."""

from pathlib import Path
from typing import Any

import yaml

from trine.config.base import StageConfig
from trine.config.control import ControlConfig
from trine.config.rl import PpoConfig
from trine.config.scale import block_parameters
from trine.config.text import PretrainConfig, TokenizerConfig
from trine.config.use import QuickstartConfig, RunConfig
from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError
from trine.runtime.speed import product_flops

# About the share of the matrix-product rate that a whole training step reaches on a CPU (docs/LOG.md: 0.70 to 0.74 in
# the run of `pretrain-laptop`, Muon's part included).
TRAINING_EFFICIENCY = 0.7
# What Python and PyTorch take before a model is there.
IMPORTS_GIB = 0.5


def describe(command: str, config: Any) -> str:
    """A text for the terminal."""
    if isinstance(config, QuickstartConfig):
        config = RunConfig(recipe="quickstart", **config.model_dump())
    if isinstance(config, RunConfig):
        return _describe_recipe(config)
    return "\n".join([_resolved(config), *_size(config, {})])


def _resolved(config: Any) -> str:
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)).rstrip()


def _describe_recipe(config: RunConfig) -> str:
    from trine.pipeline.recipes import load_recipe
    from trine.runtime.speed import time_factor

    recipe = load_recipe(config.recipe, config.out, config.seed, config.minutes, config.hardware, config.depth)
    configs = [step.config for step in recipe.steps]
    vocabularies = {each.out: each.vocab_size for each in configs if isinstance(each, TokenizerConfig)}
    lines = [f"# {recipe.title}"]
    for step in recipe.steps:
        lines += [f"## {step.name} (stage {step.stage})", _resolved(step.config), *_size(step.config, vocabularies)]
    if recipe.minutes is not None:
        hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
        minutes = recipe.minutes * time_factor(hardware)
        lines.append(f"# all together: about {minutes:.0f} minutes on {hardware.description}")
    return "\n".join(lines)


def _size(config: StageConfig, vocabularies: dict[Path, int]) -> list[str]:
    """Lines about parameters, tokens, memory and time, where they can be known before the run.

    `vocabularies`: entries of the tokenizers that the recipe itself makes, by their run folder.
    """
    if isinstance(config, PretrainConfig):
        return _pretrain_size(config, vocabularies.get(config.tokenizer))
    if isinstance(config, PpoConfig):
        responses = config.iterations * config.batch_size
        return [f"# {responses:,} responses of up to {config.max_new_tokens} tokens, {config.epochs} epochs each"]
    if isinstance(config, ControlConfig):
        updates = f"{config.epochs} x {config.minibatches} updates from each rollout"
        return [f"# {config.total_steps:,} steps of {config.environments} copies of {config.environment}, {updates}"]
    return []


def _pretrain_size(config: PretrainConfig, vocab_size: int | None) -> list[str]:
    from trine.stages.pretraining.objective import step_count
    from trine.stages.pretraining.pretrain import model_config
    from trine.tokenizer.tokenizer import Tokenizer

    try:
        vocab_size = vocab_size or Tokenizer.load(config.tokenizer).vocab_size
    except TrineError:
        return ["# parameters: known once the tokenizer is trained"]
    shape = model_config(config.model, vocab_size)
    hardware = choose_hardware(config.hardware.device, config.hardware.precision, config.hardware.threads)
    # 6 N for the weights, and attention's own products: 12 x layers x width x row (Chowdhery et al. 2022, appendix B).
    flops = 6 * shape.parameter_count + 12 * shape.layers * shape.width * config.row_tokens
    tokens_per_second = TRAINING_EFFICIENCY * product_flops(hardware) / flops
    steps = step_count(config)
    lines = [
        f"# parameters: {shape.parameter_count / 1e6:.1f}M",
        f"# memory: about {_memory(config, shape) / 2**30 + IMPORTS_GIB:.1f} GiB",
    ]
    speed = f"about {tokens_per_second:,.0f} tokens a second on {hardware.description}"
    if steps is None:
        horizon = f"{config.epochs:g} passes over the rows, counted once they are made"
        return [*lines, f"# tokens: {horizon}", f"# time: {speed}, if the device is alone with the job"]
    tokens = steps * config.batch_size * config.row_tokens
    minutes = tokens / tokens_per_second / 60
    return [*lines, f"# tokens: {tokens:,} in {steps:,} steps", f"# time: about {minutes:,.1f} minutes: {speed}"]


def _memory(config: PretrainConfig, shape: Any) -> float:
    """Bytes of weights, gradients and moments, all fp32, and of the activations of a micro-batch.

    AdamW keeps two moments of a weight, Muon one of a matrix. A token has about 40 activations of the model's width a
    layer.
    """
    matrices = block_parameters(shape.layers, shape.width)
    moments = 8 * shape.parameter_count - (4 * matrices if config.optimizer.kind == "muon" else 0)
    tokens = config.micro_batch_size * config.row_tokens
    return 8 * shape.parameter_count + moments + 2 * 40 * tokens * shape.layers * shape.width
