"""The size of a run of `trine control` before it is made, for `--dry-run`."""

from collections.abc import Mapping
from pathlib import Path

from trine.config.base import StageConfig
from trine.config.control import ControlConfig
from trine.config.stage import Estimate


def estimate(config: ControlConfig, earlier: Mapping[Path, StageConfig]) -> Estimate:
    """How many environment steps, and how many updates each rollout gives."""
    updates = f"{config.epochs} x {config.minibatches} updates from each rollout"
    return Estimate(
        (f"{config.total_steps:,} steps of {config.environments} copies of {config.environment}, {updates}",)
    )
