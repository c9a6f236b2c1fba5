"""Configs of the stages that align a model: finetune, compare, reward, ppo, evaluate."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trine.config.base import (
    Config,
    LoopConfig,
    NonNegativeInt,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
)


def _as_name(value: object) -> object:
    """A path in its plainest spelling, so that a/b/ and a/b are the same model in a run folder's record."""
    return str(Path(value)) if isinstance(value, str | Path) else value


# Run or model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub: what `trine chat --model` takes too.
ModelName = Annotated[str, BeforeValidator(_as_name)]


class LoraConfig(Config):
    """Low-rank adapters trained in place of the weights (Hu et al. 2021)."""

    rank: NonNegativeInt = 0
    """rank of the adapters, the base staying as it is; 0 makes none and trains all weights"""
    alpha: PositiveFloat = 32.0
    """an adapter's output is multiplied by alpha / rank"""
    targets: str = "all"
    """which matrices, by their Hugging Face names with commas between (q_proj,v_proj); all takes every one"""
    learning_rate: PositiveFloat = 2e-4
    """peak learning rate of the adapters, which AdamW trains whatever optimizer.kind says"""

    def optimizer(self, given: OptimizerConfig) -> OptimizerConfig:
        """What trains a stage's model: `given`, or where there are adapters AdamW at their learning rate.

        Not Muon: it orthogonalises the step of a weight matrix, and here that is a product of two.
        """
        changes = {"kind": "adamw", "learning_rate": self.learning_rate}
        return given.model_copy(update=changes) if self.rank else given


class FinetuneConfig(StageConfig):
    """Fine-tune a model on prompts and answers, packed several to a row."""

    model: ModelName
    """run or model folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    examples: Path
    """JSONL of {prompt, response}"""
    held_out: Path | None = None
    """JSONL of examples to evaluate on"""
    epochs: PositiveFloat = 1.0
    """passes over the examples; may be a fraction"""
    row_tokens: PositiveInt = 256
    """length of a packed row, at most the model's context"""
    batch_rows: PositiveInt = 8
    """rows per optimizer step"""
    micro_batch_rows: PositiveInt = 8
    """rows that go through the model at once"""
    prompt_weight: Share = 0.0
    """weight of the auxiliary language-modelling loss on prompt tokens (GPT-1 used 0.5)"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.005, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()


class CompareConfig(StageConfig):
    """Make comparisons without a labeller: the answer a person wrote against answers the model samples."""

    model: ModelName
    """what samples: run or model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    examples: Path
    """JSONL of {prompt, response} to compare on"""
    held_out: Path | None = None
    """JSONL of examples whose comparisons only evaluate"""
    samples: PositiveInt = 1
    """answers sampled per training prompt"""
    held_out_samples: PositiveInt = 2
    """answers sampled per held-out prompt: more pairs make a steadier accuracy"""
    largest_prompts: NonNegativeInt = 0
    """how many training prompts to use, chosen by seed; 0 takes all"""
    mismatched_share: Share = 0.0
    """for this share of the training prompts, one more pair: the person's answer against what a person wrote for
    another prompt, so that an answer is also judged by whether it answers the question"""
    response_tokens: PositiveInt = 64
    """token budget of an answer; a sample that exceeds it makes no pair"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    rows: PositiveInt = 256
    """answers generated at a time"""


class RewardConfig(StageConfig):
    """Train a reward model on comparisons (pairwise ranking loss)."""

    model: ModelName
    """run or model folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    comparisons: Path
    """folder of a compare stage, or a JSONL of {prompt, chosen, rejected}"""
    held_out: Path | None = None
    """JSONL of comparisons to evaluate on; a compare folder brings its own"""
    epochs: PositiveFloat = 1.0
    """passes over the comparisons; may be a fraction"""
    batch_pairs: PositiveInt = 16
    """pairs per optimizer step"""
    micro_batch_pairs: PositiveInt = 16
    """pairs that go through the model at once"""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """how much higher the chosen score has to be before the loss is content"""
    normalize: bool = True
    """scale the scores to mean 0 and variance 1 over (some 512 of) the rejected, sampled answers"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.004, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()


class KlConfig(Config):
    """How the policy is held near its reference."""

    coefficient: Annotated[float, Field(ge=0)] = 0.05
    """beta: price in reward of one nat of KL"""
    target: PositiveFloat | None = None
    """nats per response to steer to by adapting the coefficient; null keeps it fixed"""
    horizon: PositiveFloat = 10_000.0
    """responses over which an adaptive coefficient reacts"""
    least: Annotated[float, Field(ge=0)] = 0.0
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
    """first iterations in which only the values learn, so that the policy never follows a critic that knows nothing"""
    iterations: PositiveInt = 100
    """rollout-then-update rounds"""
    batch_prompts: PositiveInt = 64
    """responses per iteration"""
    minibatch_prompts: PositiveInt = 32
    """responses per optimizer step"""
    micro_batch_prompts: PositiveInt = 32
    """responses that go through the model at once; changes memory, not results"""
    epochs: PositiveInt = 2
    """passes over each iteration's responses"""
    response_tokens: PositiveInt = 64
    """token budget of a response"""
    temperature: PositiveFloat = 1.0
    """of rollouts, old, new and reference log-probabilities alike"""
    gamma: Share = 1.0
    """discount"""
    lam: Share = 0.95
    """GAE's lambda"""
    clip: PositiveFloat | None = 0.2
    """how far the probability ratio may move; null: not bounded, the plain policy gradient"""
    dual_clip: PositiveFloat | None = None
    """bound on the loss where the advantage is negative; null is plain PPO"""
    value_clip: PositiveFloat | None = 0.2
    """how far a value may move from the old one; null is plain squared error"""
    value_weight: PositiveFloat = 0.1
    """weight of the value loss"""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the entropy bonus"""
    length_penalty: Annotated[float, Field(ge=0)] = 0.0
    """subtracted from the score of a response that ran out of budget"""
    length_score: float | None = None
    """score of a response that ran out of budget, in place of the reward's; null keeps the reward's"""
    kl: KlConfig = KlConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", learning_rate=1e-4, beta2=0.95, decay="linear", warmup_share=0.02
    )
    loop: LoopConfig = LoopConfig(save_every=40)


class EvaluateConfig(StageConfig):
    """Compare a policy before and after PPO on held-out prompts."""

    before: ModelName
    """the model PPO started from"""
    after: ModelName
    """the policy PPO made"""
    base: ModelName
    """the pretrained model, for plain completions"""
    reward: ModelName
    """reward model the policy learned from"""
    judge: ModelName
    """second, independent reward model"""
    prompts: Path
    """JSONL of held-out examples"""
    response_tokens: PositiveInt = 64
    """token budget of a response"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    samples: PositiveInt = 1
    """responses per prompt"""
    shown: PositiveInt = 8
    """samples shown side by side"""
