"""The size of a PPO run before it is made, for `--dry-run`."""

from collections.abc import Mapping
from pathlib import Path

from trine.config.base import StageConfig
from trine.config.rl import PpoConfig
from trine.config.stage import Estimate


def estimate(config: PpoConfig, earlier: Mapping[Path, StageConfig]) -> Estimate:
    """How many responses, and how often each is trained on."""
    responses = config.iterations * config.batch_size
    return Estimate((f"{responses:,} responses of up to {config.max_new_tokens} tokens, {config.epochs} epochs each",))
