"""Config of the stage dpo: preferences without rollouts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trine.config.base import (
    LoopConfig,
    ModelName,
    NonNegativeFloat,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
    Word,
)
from trine.config.finetuning import DataSetConfig
from trine.config.lora import LoraConfig
from trine.config.resumption import ByContent, ChangesBits, Extends
from trine.records import Form

PreferenceLoss = Literal["dpo", "robust", "hinge", "ipo", "kto", "simpo", "orpo"]
WITHOUT_REFERENCE: tuple[PreferenceLoss, ...] = ("simpo", "orpo")
BETA: dict[PreferenceLoss, float] = {"simpo": 2.0}
DEFAULT_BETA = 0.1
# Settings that some losses alone have; with another they would change nothing, so they are refused.
OF_A_LOSS: dict[str, tuple[PreferenceLoss, ...]] = {
    "gamma": ("simpo",),
    "ipo_reduction": ("ipo",),
    "label_smoothing": ("dpo", "robust"),
    "length_normalized": ("dpo", "robust", "hinge"),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "chosen_weight": ("dpo", "robust", "hinge", "ipo", "simpo", "kto"),
}


class DpoConfig(StageConfig):
    """Improve a policy on preferences without sampling: DPO, IPO, KTO, SimPO, ORPO."""

    first = (
        "loss", "beta", "held_out", "epochs", "chosen_weight", "optimizer.learning_rate", "lora.rank",
    )  # fmt: skip

    model: ByContent[ModelName]
    """initial policy and the reference: run, model or adapter folder, .gguf file, smollm2, or owner/name on the hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    preferences: ByContent[Path]
    """folder of a preferences stage, or records as trine reward reads them (a file, a folder, owner/name of a data set
    on the hub): pairs {prompt, chosen, rejected} and rankings; for loss=kto also labels {prompt, response, label}"""
    held_out: ByContent[Path | None] = None
    """records to evaluate on, in the same form; null: those of the preferences stage"""
    held_out_share: Share = 0.0
    """share of the records to evaluate on instead of training, by a hash of their group or prompt"""
    dataset: DataSetConfig = DataSetConfig()
    fields: dict[str, str] = Field(default={})
    """what the records call their fields: OURS=THEIRS, such as chosen=better rejected=worse"""
    positive: tuple[Word, ...] = ()
    """labels that are good ones, where their names do not say it"""
    form: Form = "chat"
    """chat: prompts are conversations, written by the model's chat template; text: a prompt is plain text that the
    answer continues"""
    loss: PreferenceLoss = "dpo"
    """dpo; robust: DPO, unbiased under a share label_smoothing of wrong labels; hinge: SLiC's; ipo: a squared error,
    which bounds the margin; kto: each answer by itself, from labels (thumbs); simpo: no reference, means over tokens, a
    target margin; orpo: no reference, odds ratio beside fine-tuning on the chosen answers"""
    beta: PositiveFloat | None = None
    """how strongly the policy is held to the reference (larger: closer; orpo: weight of the odds ratio); null: 0.1, for
    simpo 2"""
    gamma: NonNegativeFloat = 1.0
    """simpo: the target margin"""
    ipo_reduction: Literal["mean", "sum"] = "mean"
    """ipo: log-ratios are means over an answer's tokens, as its authors ran it, or sums, as the paper writes it; that
    is another loss, with another beta"""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """dpo: probability that a preference is the other way round (cDPO); robust: the share that is"""
    length_normalized: bool = False
    """dpo, robust, hinge: log-ratios are means over an answer's tokens instead of sums; beta is then usually larger"""
    chosen_weight: NonNegativeFloat = 0.0
    """weight of the chosen answers' cross-entropy (RPO's alpha), in nats per token, against chosen answers becoming
    less likely; orpo has weight 1"""
    desirable_weight: PositiveFloat | None = None
    """kto: weight of good answers; null: from the counts, so that n_D w_D / (n_U w_U) is in [1, 4/3]"""
    undesirable_weight: PositiveFloat | None = None
    """kto: weight of bad answers; null: from the counts"""
    max_tokens: PositiveInt | None = None
    """longest prompt with its answer, in tokens; null: the model's context"""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """what to do with a record longer than max_tokens: stop with an error; cut the prompt's oldest exchanges (with
    form=text its beginning), never an answer; or drop it. Cut and dropped ones are counted in done.json"""
    epochs: Extends[PositiveFloat] = 1.0
    """passes over the records; may be a fraction. More than a run has extends it"""
    batch_size: PositiveInt = 16
    """pairs (kto: answers) per optimizer step; which share a step is decided once, by the seed"""
    micro_batch_size: ChangesBits[PositiveInt] = 8
    """pairs (kto: answers) per forward pass; changes memory, not results"""
    share_prompt: ChangesBits[Literal["auto", "on", "off"]] = "auto"
    """read a pair's prompt once, with both answers behind it, instead of once for each answer: faster, the more so the
    longer prompts are; changes speed and memory only. auto: on a CPU with the C++ of attention; elsewhere it takes a
    mask as large as the square of a row"""
    parallel: ChangesBits[Literal["auto", "ddp", "fsdp"]] = "auto"
    """under torchrun: ddp keeps the whole model in every process, fsdp shards it over them; auto is ddp"""
    lora: LoraConfig = LoraConfig(learning_rate=5e-5)
    optimizer: OptimizerConfig = OptimizerConfig(kind="adamw", learning_rate=1e-5, beta2=0.999, warmup_share=0.1)
    loop: LoopConfig = LoopConfig()

    @property
    def beta_of_loss(self) -> float:
        """`beta`, or the default of the loss."""
        return BETA.get(self.loss, DEFAULT_BETA) if self.beta is None else self.beta

    @property
    def likelihood_weight(self) -> float:
        """Weight of the chosen answers' cross-entropy: ORPO is fine-tuning with something beside it."""
        return 1.0 if self.loss == "orpo" else self.chosen_weight

    @property
    def has_reference(self) -> bool:
        return self.loss not in WITHOUT_REFERENCE

    @field_validator("share_prompt", mode="before")
    @classmethod
    def _as_once_written(cls, value: Any) -> Any:
        """Configs of earlier runs say true or false."""
        return {"true": "on", "false": "off"}.get(str(value).lower(), value)

    @model_validator(mode="after")
    def _of_this_loss(self) -> "DpoConfig":
        """A setting that the loss does not have is a mistake, not a default."""
        if self.held_out_share and self.held_out is not None:
            raise ValueError("held_out and held_out_share both say what to evaluate on: give one of them")
        for name, losses in OF_A_LOSS.items():
            if self.loss not in losses and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to loss={' or '.join(losses)}, and loss is {self.loss}: leave it out")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("loss=robust needs the share of wrong labels: give label_smoothing, above 0 and below 0.5")
        if self.loss == "kto" and self.batch_size < 2:
            raise ValueError("loss=kto compares the answers of a step with each other: give batch_size 2 or more")
        if self.loss == "kto" and self.share_prompt == "on":
            raise ValueError("share_prompt is of pairs, and loss=kto reads each answer by itself: leave it out")
        return self
