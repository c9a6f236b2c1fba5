"""What every policy gradient can be told, on text and on control tasks: the base of their configs."""

from pydantic import model_validator

from trine.config.base import NonNegativeFloat, PositiveFloat, PositiveInt, Share, StageConfig


class PolicyGradientConfig(StageConfig):
    """Advantages and losses of PPO and of the algorithms beside it."""

    gamma: Share = 1.0
    """discount factor"""
    gae_lambda: Share = 0.95
    """lambda of generalized advantage estimation: 1 is the return less the value, 0 one step of it"""
    epochs: PositiveInt = 4
    """passes over each iteration's rollouts"""
    clip_range: PositiveFloat | None = 0.2
    """how far the probability ratio may move from 1; null: unclipped, the plain policy gradient"""
    clip_range_high: PositiveFloat | None = None
    """how far the ratio may rise above 1, where that differs from how far it may fall; null: clip_range both ways"""
    dual_clip_range: PositiveFloat | None = None
    """where the advantage is negative, the loss is at most this many times it (Ye et al. 2020); null is plain PPO"""
    value_clip_range: PositiveFloat | None = None
    """clip range of a value, around the old one; null: plain squared error"""
    value_weight: NonNegativeFloat = 0.5
    """coefficient of the value loss"""
    entropy_weight: NonNegativeFloat = 0.0
    """coefficient of the entropy bonus"""

    @model_validator(mode="after")
    def _clips(self) -> "PolicyGradientConfig":
        """An upper range of nothing would be left unused in silence."""
        if self.clip_range is None and self.clip_range_high is not None:
            raise ValueError(f"clip_range_high={self.clip_range_high:g} needs a clip_range, the range below 1")
        return self
