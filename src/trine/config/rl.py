"""Configs of the stages that learn from a reward: ppo."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trine.config.base import (
    Config,
    LoopConfig,
    ModelName,
    NonNegativeInt,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
)
from trine.config.lora import LoraConfig
from trine.config.policy_gradient import PolicyGradientConfig


class KlConfig(Config):
    """How the policy is held near its reference."""

    coefficient: Annotated[float, Field(ge=0)] = 0.05
    """beta: price in reward of one nat of KL"""
    target: PositiveFloat | None = None
    """nats per response to steer to by adapting the coefficient; null keeps it fixed"""
    horizon: PositiveFloat = 10_000.0
    """responses over which an adaptive coefficient reacts"""
    min_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """an adaptive coefficient never falls below this; at `coefficient` the target is a limit that KL may stay under"""
    in_loss: Literal["none", "k1", "k2", "k3"] = "none"
    """none: KL is part of the reward (k1); k1, k2, k3: a penalty in the loss instead, with exact gradient"""


class PpoConfig(PolicyGradientConfig):
    """Improve a policy against a reward by PPO, held near a reference by KL."""

    model: ModelName
    """policy to start from, also the reference: run or model folder, .gguf file, smollm2, or owner/name on the hub"""
    prompts: Path
    """JSONL of examples; their prompts are used"""
    reward: ModelName
    """reward run or model folder, owner/name on the hub, or package.module:function, called with (prompts,
    responses) and by name whatever other fields of the prompts' records it asks for; returns scores"""
    critic: Literal["shared", "policy", "reward"] = "shared"
    """shared: a value head on the policy; policy, reward: a model of its own, started from that one"""
    critic_warmup: NonNegativeInt = 0
    """first iterations that train the critic only"""
    iterations: PositiveInt = 100
    """rollout-then-update rounds"""
    batch_size: PositiveInt = 64
    """responses per iteration"""
    minibatch_size: PositiveInt = 32
    """responses per optimizer step"""
    micro_batch_size: PositiveInt = 32
    """responses that go through the model at once; changes memory, not results"""
    epochs: PositiveInt = 2
    """passes over each iteration's responses"""
    max_new_tokens: PositiveInt = 64
    """token budget of a response"""
    temperature: PositiveFloat = 1.0
    """of rollouts, old, new and reference log-probabilities alike"""
    value_clip_range: PositiveFloat | None = 0.2
    """how far a value may move from the old one; null is plain squared error"""
    value_weight: PositiveFloat = 0.1
    """weight of the value loss"""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """subtracted from the score of a response that has no end token within max_new_tokens"""
    missing_eos_score: float | None = None
    """score of such a response in place of the reward's; null keeps the reward's"""
    kl: KlConfig = KlConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", learning_rate=1e-4, beta2=0.95, decay="linear", warmup_share=0.02
    )
    loop: LoopConfig = LoopConfig(save_every=40)

    @model_validator(mode="after")
    def _agree(self) -> "PpoConfig":
        """Sizes that divide, and a critic that there is."""
        if self.critic_warmup and self.critic == "shared":
            raise ValueError(
                "critic_warmup needs a critic of its own: set critic to policy or reward, or critic_warmup to 0"
            )
        if self.critic == "reward" and ":" in self.reward and not Path(self.reward).exists():
            raise ValueError(f"critic=reward starts from a reward model, and reward={self.reward} is a function")
        for name, part in (("batch_size", "minibatch_size"), ("minibatch_size", "micro_batch_size")):
            size, divisor = getattr(self, name), getattr(self, part)
            if size % divisor:
                raise ValueError(f"{name}={size} is not a multiple of {part}={divisor}")
        return self
