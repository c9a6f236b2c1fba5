"""Configs of the stages that learn from a reward: ppo."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trine.config.base import (
    Config,
    LoopConfig,
    ModelName,
    NonNegativeInt,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
)
from trine.config.lora import LoraConfig


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


class PpoConfig(StageConfig):
    """Improve a policy against a reward by PPO, held near a reference by KL."""

    model: ModelName
    """policy to start from, also the reference: run or model folder, .gguf file, smollm2, or owner/name on the hub"""
    prompts: Path
    """JSONL of examples; their prompts are used"""
    reward: ModelName
    """reward run or model folder, owner/name on the hub, or package.module:function, which takes (prompts, responses)
    and returns scores"""
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
    gamma: Share = 1.0
    """discount"""
    gae_lambda: Share = 0.95
    """GAE's lambda"""
    clip_range: PositiveFloat | None = 0.2
    """how far the probability ratio may move; null: not bounded, the plain policy gradient"""
    dual_clip_range: PositiveFloat | None = None
    """bound on the loss where the advantage is negative; null is plain PPO"""
    value_clip_range: PositiveFloat | None = 0.2
    """how far a value may move from the old one; null is plain squared error"""
    value_weight: PositiveFloat = 0.1
    """weight of the value loss"""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the entropy bonus"""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """subtracted from the score of a response that ran out of budget"""
    missing_eos_score: float | None = None
    """score of a response that ran out of budget, in place of the reward's; null keeps the reward's"""
    kl: KlConfig = KlConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", learning_rate=1e-4, beta2=0.95, decay="linear", warmup_share=0.02
    )
    loop: LoopConfig = LoopConfig(save_every=40)
