"""Configs of the algorithms without a critic, which compare the responses to one prompt: grpo, rloo, reinforce++.

Each is PPO's config with other defaults, those of its paper where they do not depend on the size of a model; all of
them can be had from `trine ppo` too.
"""

from typing import Literal

from pydantic import model_validator

from trine.config.base import PositiveFloat, PositiveInt
from trine.config.rl import KlConfig, PpoConfig

FIRST: tuple[str, ...] = (
    "samples_per_prompt", "iterations", "batch_size", "max_new_tokens", "kl.coefficient", "optimizer.learning_rate",
)  # fmt: skip


class GrpoConfig(PpoConfig):
    """Train a policy by GRPO (Shao et al. 2024): PPO's clipped updates, with each score set against its group's.

    What differs from `trine ppo`: advantage=group, 8 samples a prompt, no critic; aggregation=response; KL in the loss
    (k3), coefficient 0.04; 1 epoch. Dr. GRPO: --groups.deviation none --aggregation constant. DAPO: --aggregation token
    --clip_range_high 0.28 --groups.equal resample --kl.coefficient 0. GSPO: --ratio sequence.
    """

    first = FIRST

    advantage: Literal["group"] = "group"
    """group: a score less the mean of its group, over the group's deviation, for all tokens of the response"""
    samples_per_prompt: PositiveInt = 8
    """responses to each prompt, a group; `batch_size` counts responses"""
    aggregation: Literal["token", "response", "constant"] = "response"
    """how token losses become one: token: their mean over all tokens; response: the mean over responses of the mean
    over tokens (GRPO); constant: their sum over responses times max_new_tokens (Dr. GRPO)"""
    epochs: PositiveInt = 1
    """passes over each iteration's responses"""
    kl: KlConfig = KlConfig(coefficient=0.04, in_loss="k3")


class RlooConfig(PpoConfig):
    """Train a policy by RLOO (Ahmadian et al. 2024): the policy gradient, with the mean of the other responses to a
    prompt as the baseline of each.

    What differs from `trine ppo`: advantage=leave_one_out, 4 samples a prompt, no critic; no clipping; KL in the
    reward, before the baseline; aggregation=constant, so that a response counts as one action; 1 epoch. The clipped
    form is another algorithm: trine ppo --advantage leave_one_out.
    """

    first = FIRST

    advantage: Literal["leave_one_out"] = "leave_one_out"
    """leave_one_out: a score, less KL, less the mean of the others in its group, for all tokens of the response"""
    samples_per_prompt: PositiveInt = 4
    """responses to each prompt, a group; `batch_size` counts responses"""
    aggregation: Literal["token", "response", "constant"] = "constant"
    """how token losses become one: token: their mean over all tokens; response: the mean over responses of the mean
    over tokens; constant: their sum over responses times max_new_tokens, as the paper sums a response's tokens"""
    clip_range: PositiveFloat | None = None
    """none: RLOO is unclipped"""
    epochs: PositiveInt = 1
    """passes over each iteration's responses"""

    @model_validator(mode="after")
    def _unclipped(self) -> "RlooConfig":
        if self.clip_range is not None:
            raise ValueError(
                f"RLOO is unclipped, and clip_range={self.clip_range:g}; for its clipped form take trine ppo "
                "--advantage leave_one_out"
            )
        return self


class ReinforcePlusPlusConfig(PpoConfig):
    """Train a policy by REINFORCE++ (Hu et al. 2025): PPO's clipped updates without a critic, advantages normalised
    over all tokens of the step.

    What differs from `trine ppo`: advantage=global, no critic; KL in the reward, coefficient 0.01; 1 epoch. Its
    baseline form: --groups.baseline true --samples_per_prompt 4 --kl.in_loss k2.
    """

    first = FIRST

    advantage: Literal["global"] = "global"
    """global: what follows a token, score and KL, normalised over all tokens of the step"""
    epochs: PositiveInt = 1
    """passes over each iteration's responses"""
    kl: KlConfig = KlConfig(coefficient=0.01)
