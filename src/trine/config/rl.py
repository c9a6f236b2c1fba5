"""Configs of the stages that learn from a reward: ppo."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trine.config.base import (
    Config,
    LoopConfig,
    ModelName,
    NonNegativeInt,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
)
from trine.config.lora import LoraConfig
from trine.config.policy_gradient import PolicyGradientConfig
from trine.config.queries import check_query_tokens
from trine.config.resumption import ByContent, ChangesBits, Extends, MayChange
from trine.config.rewards import OptionalReward, parts_of, reward_kind
from trine.records import Closing, Form


class KlConfig(Config):
    """KL penalty against the reference."""

    coefficient: Annotated[float, Field(ge=0)] = 0.05
    """beta: reward subtracted for one nat of KL"""
    target: PositiveFloat | None = None
    """KL per response, in nats, that the coefficient is adapted to, by a factor within 1/2 and 2 an iteration; null: a
    fixed coefficient"""
    horizon: PositiveFloat = 10_000.0
    """with target: number of responses over which the coefficient adapts; smaller reacts faster"""
    min_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """with target: minimum of the coefficient; equal to `coefficient`, it makes the target an upper bound"""
    in_loss: Literal["none", "k1", "k2", "k3"] = "none"
    """none: KL is subtracted from the reward (k1); k1, k2, k3: a penalty in the loss instead, exact gradient"""

    @model_validator(mode="after")
    def _can_adapt(self) -> "KlConfig":
        """A factor leaves 0 at 0."""
        if self.target is not None and not self.coefficient and not self.min_coefficient:
            raise ValueError(
                f"coefficient=0 with target={self.target:g} stays 0 for ever, since it is adapted by a factor: give a "
                "coefficient above 0 (0.05 is the default), or a min_coefficient"
            )
        return self


class CriticTrainingConfig(Config):
    """How a critic of its own is trained, where that is not as the policy is."""

    epochs: PositiveInt | None = None
    """the critic's passes over each iteration's responses; null: as many as the policy's"""
    explained_variance: Share | None = None
    """end the warm-up with the first iteration in which the critic explains this share of the variance of what fresh
    responses earn; critic_warmup is then the most iterations that it takes"""
    learning_rate: PositiveFloat | None = None
    """peak learning rate of the critic's trunk; null: optimizer's. Any of these three gives the critic an optimizer of
    its own, whose gradients are clipped apart from the policy's"""
    decay: Literal["cosine", "linear", "constant", "wsd"] | None = None
    """learning-rate schedule of the critic; null: optimizer's"""
    warmup_share: Share | None = None
    """share of all steps over which the critic's learning rate rises; null: as optimizer has it"""

    def optimizer(self, policy: OptimizerConfig) -> OptimizerConfig | None:
        """The critic's own optimizer, where it has one; what is not given is as the policy's is."""
        given = {
            name: getattr(self, name)
            for name in ("learning_rate", "decay", "warmup_share")
            if getattr(self, name) is not None
        }
        if not given:
            return None
        return policy.model_copy(update={**given, **({"warmup_steps": None} if "warmup_share" in given else {})})


class GroupsConfig(Config):
    """How the responses to one prompt are compared, where there is no critic."""

    deviation: Literal["population", "sample", "none"] = "sample"
    """with advantage=group: what a score's distance from the mean of its group is divided by: the standard deviation of
    the group, that of a sample (as TRL and verl take it), or nothing (Dr. GRPO)"""
    baseline: bool = False
    """with advantage=global: take the mean of its group off each score first (REINFORCE++-baseline)"""
    equal: Literal["keep", "mask", "resample"] = "keep"
    """what becomes of a group whose scores are all equal, so that all advantages are 0: keep: KL in the loss still acts
    on it; mask: nothing is learned from it; resample: responses to another prompt take its place (DAPO)"""
    resample_rounds: PositiveInt = 3
    """with equal=resample: how often groups are sampled again at most; what is equal then is masked"""


class PpoConfig(PolicyGradientConfig):
    """Train a policy against a reward by PPO, with a KL penalty against a reference."""

    first: ClassVar[tuple[str, ...]] = (
        "form", "iterations", "max_new_tokens", "kl.coefficient", "optimizer.learning_rate", "show",
    )  # fmt: skip

    model: ByContent[ModelName]
    """initial policy and the reference: run, model or adapter folder, .gguf file, smollm2, or owner/name on the hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    reference: ByContent[ModelName | None] = None
    """model to stay near, as the KL penalty has it: another model of the same tokenizer, such as a teacher; null: the
    initial policy"""
    form: Form = "chat"
    """chat: prompts are conversations that the policy answers by its chat format; text: plain text that it goes on
    with"""
    prompts: ByContent[Path]
    """prompts: JSON Lines, JSON, CSV or Parquet (also compressed), a folder of such files, or owner/name of a data set
    on the Hugging Face hub. chat: {prompt}, {messages}, {question} or another form of fine-tuning; text: {query},
    {prompt} or {text}, or folders named by labels, as aclImdb. Reward functions may ask for the other fields, and for
    `response`"""
    query_tokens: tuple[PositiveInt, ...] = ()
    """with form text: two numbers, such as [2, 8]. The query is only the first so many tokens of a record's text, a
    number between these two, both included, that the seed draws for each; empty: all of the text"""
    user: ByContent[str | None] = None
    """package.module:function that answers the policy in conversations of several turns: called with the conversation,
    [{role, content}, ...], and by name with other fields of the prompt's record; returns the user's next message, or
    None to end. What it says is read but not learned from"""
    max_turns: PositiveInt = 4
    """with user: turns of the policy in a conversation, each of at most max_new_tokens"""
    reward: ByContent[OptionalReward]
    """reward run or model folder, owner/name on the hub, package.module:function of (prompts, responses, other fields
    of the prompts' records by name), an http address, one that comes with Trine (parses, tests, exact_answer,
    regex:..., json_schema:FILE, length:..., repetition, words_wanted:...), or a sum of these: 'parses + 0.1*length'
    (docs/reward-models.md). It is tried on a few prompts before anything is sampled. null, with a `reference` of one's
    own: no score, only the KL penalty, which is on-policy distillation"""
    closed: Closing | None = None
    """how a reward model reads a response that was cut at max_new_tokens: line: to its last whole line, and ended; end:
    ended where it was cut; as_is: unended; null: as its folder says, which is line for code and end for prose"""
    advantage: Literal["gae", "group", "leave_one_out", "global"] = "gae"
    """what the tokens of a response are credited with. gae: what a critic did not expect; without a critic: group: the
    score against the mean and deviation of the others to its prompt (GRPO); leave_one_out: against the mean of the
    others (RLOO); global: score and KL, normalised over the step's tokens (REINFORCE++)"""
    groups: GroupsConfig = GroupsConfig()
    critic: Literal["shared", "policy", "reward"] = "shared"
    """shared: a value head on the policy; policy, reward: a separate model, initialised from that one"""
    value_head: Literal["zero", "fitted"] = "zero"
    """zero: values start at 0; fitted: the value head is fitted to the scores of the first iteration's responses before
    anything is updated (ridge regression), which is worth many updates of a critic"""
    critic_model: ByContent[ModelName | None] = None
    """a critic of its own that begins as this one, head and all: critic/ of an earlier run, or a reward model; it takes
    the place of `critic`"""
    critic_warmup: NonNegativeInt = 0
    """first iterations that train the critic only; with critic_training.explained_variance the most of them"""
    critic_training: CriticTrainingConfig = CriticTrainingConfig()
    iterations: Extends[PositiveInt] = 100
    """number of iterations, each a rollout and its updates. More than a run has extends it"""
    batch_size: PositiveInt = 64
    """responses per iteration (rollout), over all processes"""
    samples_per_prompt: PositiveInt = 1
    """responses to each prompt, a group, of which batch_size has so many"""
    minibatch_size: PositiveInt = 32
    """responses per optimizer step, over all processes"""
    micro_batch_size: ChangesBits[PositiveInt] = 32
    """responses per forward pass, in one process; changes memory, not results"""
    recompute_blocks: MayChange[bool] = False
    """gradient checkpointing: keep block inputs, recompute the rest in the backward pass; less memory, about a
    third more time, the same results"""
    parallel: ChangesBits[Literal["auto", "ddp", "fsdp"]] = "auto"
    """under torchrun: ddp keeps policy and critic whole in every process, fsdp shards them over all; auto is ddp. Each
    process samples and scores its share of a batch; the reference and the reward model are whole in every one"""
    reward_overlap: ChangesBits[NonNegativeInt] = 0
    """for a slow reward: sample the batch in so many parts, each scored in a thread of its own while the next is
    sampled and while log-probabilities are computed; 0: scored when all is sampled, in one call"""
    epochs: PositiveInt = 2
    """passes over each iteration's responses"""
    early_stop_kl: PositiveFloat | None = None
    """skip the policy's remaining updates of an iteration once an update finds it so far from the policy that sampled:
    approximate_kl, in nats per token; a critic of its own goes on. null: all updates are made"""
    old_log_probs: Literal["trainer", "engine", "corrected"] = "trainer"
    """trainer: log-probabilities of the policy that sampled are computed by the trainer, so that the first ratio is 1;
    engine: those that came with the samples, which saves that pass; corrected: the trainer's, and each token's loss is
    weighted by trainer's over engine's probability. The last two take a weight of at most importance_cap"""
    importance_cap: PositiveFloat = 2.0
    """truncated importance sampling: the most that one token's ratio of probabilities weighs, with old_log_probs engine
    or corrected"""
    return_lambda: Share | None = None
    """lambda of the returns that the critic learns, apart from the advantages' (VAPO: 1 there and less here); null:
    gae_lambda"""
    max_new_tokens: PositiveInt = 64
    """token budget of a response"""
    stop_strings: tuple[str, ...] = ()
    """a response ends with the first of these that it writes, and counts as ended; rewards see the text before it"""
    temperature: PositiveFloat = 1.0
    """sampling temperature of rollouts, and that of all log-probabilities"""
    value_clip_range: PositiveFloat | None = 0.2
    """clip range of a value, around the old one; null: plain squared error"""
    value_weight: PositiveFloat = 0.1
    """coefficient of the value loss"""
    aggregation: Literal["token", "response", "constant"] = "token"
    """how token losses become one: token: their mean over all tokens of the step (DAPO); response: the mean over
    responses of the mean over tokens (GRPO); constant: their sum over responses times max_new_tokens (Dr. GRPO)"""
    ratio: Literal["token", "sequence"] = "token"
    """what is clipped: the probability ratio of each token, or that of the whole response, per token (GSPO)"""
    overlong_buffer: NonNegativeInt = 0
    """last tokens of max_new_tokens over which a penalty for length rises, evenly (DAPO); 0: none"""
    overlong_penalty: PositiveFloat = 1.0
    """with overlong_buffer: subtracted from the score of a response of max_new_tokens"""
    mask_truncated: bool = False
    """learn nothing from responses without an end token, which say little of what they would have become (DAPO)"""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """subtracted from the score of a response that has no end token within max_new_tokens. 0, the default, leaves it
    what the reward says of the cut text; where answers are meant to end, 1 to 3 deviations teach it"""
    penalty_unit: Literal["score", "deviation"] = "score"
    """what missing_eos_penalty counts in: units of the score, or standard deviations of the scores of fresh samples,
    those of the first iteration"""
    missing_eos_score: float | None = None
    """score of such a response in place of the reward's; null keeps the reward's"""
    score_scaling: Literal["none", "scale", "normalize"] = "none"
    """scale: divide scores by the standard deviation of all scores so far; normalize: subtract their mean first"""
    score_clip: PositiveFloat | None = None
    """scores, once scaled, are limited to this range around 0; null: not"""
    held_out: ByContent[Path | None] = None
    """prompts that are never trained on, in the form of `prompts`: at every evaluation (loop.evaluate_every, and the
    end) the policy answers them, and score and KL are logged as held_out/score and held_out/kl"""
    held_out_size: MayChange[PositiveInt] = 64
    """the most held-out prompts of an evaluation, the first ones"""
    keep_best: MayChange[bool] = False
    """with held_out: keep the policy of the evaluation with the best held-out score, as best/"""
    best_max_kl: MayChange[PositiveFloat | None] = None
    """with keep_best: only of evaluations whose KL to the reference is at most so many nats a response"""
    held_out_reward: ByContent[OptionalReward] = None
    """a second reward, named as reward is, which nothing is trained on: it scores the same responses, and an alarm
    tells when it falls while the reward rises; it scores the responses to `held_out` too, in place of the reward"""
    held_out_every: MayChange[PositiveInt] = 1
    """with held_out_reward: iterations from one scoring by it to the next"""
    samples_every: MayChange[NonNegativeInt] = 10
    """iterations from one table of samples (samples.jsonl, and in the report) to the next; 0: none"""
    sample_count: MayChange[NonNegativeInt] = 4
    """responses in a table of samples: the first of the iteration"""
    show: MayChange[NonNegativeInt] = 0
    """follow this many samples through one update, token by token, print that and exit; nothing is written"""
    kl: KlConfig = KlConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", learning_rate=1e-4, beta2=0.95, decay="linear", warmup_share=0.02
    )
    loop: LoopConfig = LoopConfig(save_every=40)

    @property
    def own_critic(self) -> bool:
        """Whether the critic has a trunk of its own."""
        return self.critic != "shared" or self.critic_model is not None

    @property
    def trains_critic_alone(self) -> bool:
        """Whether there are updates that leave policy or critic as it is."""
        several = self.critic_training.epochs not in (None, self.epochs)
        return self.own_critic and (several or self.critic_warmup > 0 or self.early_stop_kl is not None)

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps of an iteration: the passes of policy or critic, whichever are more."""
        return max(self.epochs, self.critic_training.epochs or 0) * (self.batch_size // self.minibatch_size)

    @model_validator(mode="after")
    def _agree(self) -> "PpoConfig":
        """Sizes that divide, and a critic that there is."""
        kinds = [reward_kind(part.name) for part in parts_of(self.reward)]
        if self.critic == "reward" and kinds != ["model"]:
            what = f"reward={self.reward} is a {kinds[0] if len(kinds) == 1 else 'sum'}" if kinds else "there is none"
            raise ValueError(f"critic=reward starts from a reward model, and {what}")
        if self.closed is not None and kinds and "model" not in kinds:
            raise ValueError(
                f"closed={self.closed} is how a reward model reads, and reward={self.reward} is a {kinds[0]}"
            )
        sizes = ("batch_size", "minibatch_size"), ("minibatch_size", "micro_batch_size")
        for name, part in (*sizes, ("batch_size", "samples_per_prompt")):
            size, divisor = getattr(self, name), getattr(self, part)
            if size % divisor:
                raise ValueError(f"{name}={size} is not a multiple of {part}={divisor}")
        return self

    @model_validator(mode="after")
    def _compares_what_it_samples(self) -> "PpoConfig":
        """Groups where they are compared, and no setting that would change nothing."""
        compared = self.advantage in ("group", "leave_one_out") or self.groups.baseline
        if compared and self.samples_per_prompt < 2:
            raise ValueError(
                f"advantage={self.advantage} compares responses to one prompt: samples_per_prompt has to be 2 or more, "
                f"and is {self.samples_per_prompt}"
            )
        given = _changed(self.groups)
        for name, owner in (("deviation", "group"), ("baseline", "global")):
            if name in given and self.advantage != owner:
                raise ValueError(f"groups.{name} belongs to advantage={owner}, and advantage={self.advantage}")
        if self.groups.equal != "keep" and not compared:
            raise ValueError(f"groups.equal={self.groups.equal} needs groups, and advantage={self.advantage} has none")
        if "resample_rounds" in given and self.groups.equal != "resample":
            raise ValueError("groups.resample_rounds belongs to groups.equal=resample")
        if self.ratio == "sequence" and self.aggregation != "response":
            raise ValueError(
                "ratio=sequence is one ratio a response, whose loss is a mean over responses: set aggregation=response"
            )
        if self.overlong_buffer > self.max_new_tokens:
            raise ValueError(f"overlong_buffer={self.overlong_buffer} is above max_new_tokens={self.max_new_tokens}")
        return self

    @model_validator(mode="after")
    def _has_a_critic_where_one_is_asked_for(self) -> "PpoConfig":
        if self.advantage == "gae":
            return self
        defaults = {name: type(self).model_fields[name].default for name in ("critic", "critic_model", "value_head")}
        for name, default in (*defaults.items(), ("critic_warmup", 0)):
            if getattr(self, name) != default:
                raise ValueError(f"advantage={self.advantage} has no critic: leave out {name}={getattr(self, name)}")
        return self

    @model_validator(mode="after")
    def _has_the_critic_it_speaks_of(self) -> "PpoConfig":
        training = self.critic_training
        if self.critic_model is not None and self.critic != "shared":
            raise ValueError(f"critic_model takes the place of critic={self.critic}: leave out one of them")
        if self.critic_model is not None and self.value_head == "fitted":
            raise ValueError("value_head=fitted replaces the head that critic_model brings: leave out one of them")
        for name, given in (("critic_warmup", self.critic_warmup), ("critic_training", _changed(training))):
            if given and not self.own_critic:
                raise ValueError(
                    f"{name} needs a critic of its own: set critic to policy or reward, or leave {name} out"
                )
        if training.explained_variance is not None and not self.critic_warmup:
            raise ValueError(
                "critic_training.explained_variance ends a warm-up early: say by critic_warmup how many iterations it "
                "may take at most"
            )
        return self

    @model_validator(mode="after")
    def _evaluates_what_it_keeps(self) -> "PpoConfig":
        if self.keep_best and self.held_out is None:
            raise ValueError("keep_best compares held-out scores: give held_out, prompts that are not trained on")
        if self.best_max_kl is not None and not self.keep_best:
            raise ValueError("best_max_kl bounds what keep_best keeps: add keep_best=true")
        if self.penalty_unit == "deviation" and not self.missing_eos_penalty:
            raise ValueError("penalty_unit=deviation is the unit of missing_eos_penalty, which is 0")
        return self

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> "PpoConfig":
        """Settings that belong to one form, to several turns, or to distillation."""
        if self.reward is None and self.reference is None:
            raise ValueError(
                "reward=null leaves nothing to learn from: name a reward, or, for on-policy distillation, a reference "
                "(the teacher)"
            )
        check_query_tokens(self.query_tokens, self.form)
        if self.user is not None and self.form == "text":
            raise ValueError("a user answers in conversations: leave user out, or set form=chat")
        if "" in self.stop_strings:
            raise ValueError("an empty stop string would end every response at once; leave it out")
        return self


def _changed(config: Config) -> set[str]:
    """The settings that are not at their defaults; what a run wrote of itself gives all of them."""
    return {name for name, field in type(config).model_fields.items() if getattr(config, name) != field.default}
