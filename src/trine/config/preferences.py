"""Configs of the stages that learn from what people prefer: preferences makes pairs, reward trains a reward model."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trine.config.backbones import WordsConfig, with_defaults_of_kind
from trine.config.base import (
    Config,
    LoopConfig,
    ModelName,
    NonNegativeFloat,
    NonNegativeInt,
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
from trine.records import Closing, Form

SOURCES = ("labels", "scores", "pairs", "rankings", "judgements", "preferences")


class PreferencesConfig(StageConfig):
    """Make preference pairs without a labeller: chosen is the answer a person wrote, rejected one the model samples."""

    first = ("held_out", "samples", "max_prompts", "max_new_tokens")

    model: ByContent[ModelName]
    """model to sample from: run, model or adapter folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    examples: ByContent[Path]
    """records of a prompt and an answer in any form of fine-tuning: a file, a folder of files, or owner/name of a data
    set on the Hugging Face hub; each answer is the chosen one of its pairs, unless it is longer than max_new_tokens"""
    held_out: ByContent[Path | None] = None
    """the same, for preference pairs to evaluate on"""
    samples: PositiveInt = 1
    """answers sampled per training prompt"""
    held_out_samples: PositiveInt = 2
    """answers sampled per held-out prompt; more pairs make the measured accuracy less noisy"""
    max_prompts: NonNegativeInt = 0
    """use at most this many training prompts, chosen at random; 0 uses all"""
    mismatched_share: Share = 0.0
    """share of the training prompts that get one more pair, whose rejected answer is what a person wrote for another
    prompt, so that the reward model learns whether an answer fits its prompt"""
    max_new_tokens: PositiveInt = 64
    """token budget of a sampled answer; one that does not end within it makes no pair"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    rows: ChangesBits[PositiveInt] = 256
    """answers generated in parallel; changes speed and memory only"""


class KindWeights(Config):
    """How much one record of each kind counts in the loss; times a record's own `weight`."""

    label: NonNegativeFloat = 1.0
    """of a label"""
    score: NonNegativeFloat = 1.0
    """of a score"""
    pair: NonNegativeFloat = 1.0
    """of a pair"""
    ranking: NonNegativeFloat = 1.0
    """of a ranking, all its pairs together"""


class CutsConfig(Config):
    """Runs of texts to learn from too, as PPO shows answers that hit max_new_tokens."""

    count: NonNegativeInt = 0
    """runs of every labelled or scored text that are learned beside the whole; 0: none"""
    low: PositiveInt = 8
    """shortest run"""
    high: PositiveInt = 60
    """longest run; the length is random between the two"""
    start: Literal["beginning", "anywhere"] = "beginning"
    """where a run starts: with the text, as what PPO shows; or anywhere in it, of whole texts without a prompt"""
    unit: Literal["words", "tokens"] = "words"
    """what low and high count"""

    @model_validator(mode="after")
    def _in_order(self) -> "CutsConfig":
        if self.low > self.high:
            raise ValueError(f"low={self.low} is more than high={self.high}")
        return self


class RewardConfig(StageConfig):
    """Train a reward model on labels, scores, pairs and rankings."""

    unnamed = ("model",)
    first = (
        "model", "kind", "labels", "scores", "pairs", "rankings", "held_out_share", "form", "epochs",
    )  # fmt: skip

    model: ByContent[ModelName] = ""
    """run, model or adapter folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub; with kind
    encoder: minilm, a folder or owner/name of an encoder or classifier; with kind words: none"""
    kind: Literal["model", "encoder", "words"] = "model"
    """model: a language model of Trine's with a scalar head; encoder: any encoder of Hugging Face's form, with its own
    tokenizer (pip install 'trine[hf]'); words: counts words, in seconds on one core. encoder takes 3 epochs in batches
    of 10, adamw with a learning rate of 5e-5, and cuts what is too long, where nothing else is said"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    labels: ByContent[tuple[Path, ...]] = ()
    """texts or answers that are good or bad: files (JSON Lines, JSON, CSV, Parquet, compressed too) of {text, label},
    {prompt, response, label} or {messages, label}; folders named by their labels, as aclImdb; or owner/name of a data
    set on the Hugging Face hub"""
    scores: ByContent[tuple[Path, ...]] = ()
    """the same with a number: {text, score}, {prompt, response, rating} ..."""
    pairs: ByContent[tuple[Path, ...]] = ()
    """preference pairs: {prompt, chosen, rejected}, with or without margin, strength, probability or tie; conversations
    and transcripts in chosen and rejected need no prompt of their own"""
    rankings: ByContent[tuple[Path, ...]] = ()
    """rankings: {prompt, answers, ranking} with places of answers, best first and ties together, or "all bad"; also
    ranks, scores, best or better in place of ranking"""
    judgements: ByContent[tuple[Path, ...]] = ()
    """records of any of these kinds; one that has a label and a score gives both"""
    preferences: ByContent[Path | None] = None
    """folder of a preferences stage, with its held-out pairs; or a file of pairs"""
    held_out: ByContent[tuple[Path, ...]] = ()
    """records to evaluate on, of any kind; null: those of the preferences stage"""
    held_out_share: Share = 0.0
    """share of the groups of records to evaluate on instead of training, by a hash of the prompt, or of held_out_by"""
    held_out_by: str | None = None
    """field (such as movie) whose records are all trained on or all held out; null: records of one prompt or text"""
    dataset: DataSetConfig = DataSetConfig()
    form: Form | None = None
    """chat: prompts and answers are a conversation in the model's chat format; text: plain text, where a prompt is the
    beginning that an answer continues; null: text where records have no prompt, else chat"""
    fields: dict[str, str] = Field(default={})
    """what your records call a field: OURS=THEIRS, such as text=comment"""
    positive: tuple[Word, ...] = ()
    """labels that are good ones, all others being bad; without it 1, true, pos, positive, good and yes are good, 0, -1,
    false, neg, negative, bad and no bad"""
    words: WordsConfig = WordsConfig()
    weights: KindWeights = KindWeights()
    cuts: CutsConfig = CutsConfig()
    max_tokens: PositiveInt | None = None
    """longest prompt and answer, in tokens; null: the model's context, of an encoder at most 512"""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """what to do with a longer one: stop with an error; cut it, here and whenever the model scores one; or drop it. Cut
    and dropped ones are counted in done.json"""
    truncation_side: Literal["right", "left"] = "right"
    """with too_long=cut: the side of a text or answer that is cut off; a prompt of more than 3/4 of max_tokens always
    loses its beginning"""
    epochs: Extends[PositiveFloat] = 1.0
    """passes over the records; may be a fraction. More than a run has extends it"""
    batch_size: PositiveInt = 16
    """records per optimizer step, over all processes; the pairs and rankings of one prompt are one record"""
    micro_batch_size: ChangesBits[PositiveInt] = 16
    """records per forward pass; changes memory, not results"""
    ranking_loss: Literal["pairs", "plackett_luce"] = "pairs"
    """loss of a ranking: all pairs of its answers, which weigh 1 together; or Plackett-Luce: the best among all, then
    the next among the rest"""
    margin: NonNegativeFloat = 0.0
    """margin of pairs and rankings, in addition to a record's own; ties and soft labels have none"""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """share of the labels and pairs that are taken to be wrong"""
    centring: NonNegativeFloat = 0.0
    """weight of (chosen + rejected)^2, which keeps the scores of pairs and rankings near 0; 0.01 is usual"""
    normalize: Literal["auto", "on", "off"] = "auto"
    """after training, scale the scores to mean 0 and variance 1 over fresh samples of the reference policy, on the
    prompts of the training records, scored as PPO would score them; auto: of pairs and rankings alone, since the score
    of a label is its log-odds, and of a score its standardised value"""
    reference: ByContent[ModelName | None] = None
    """policy that is sampled from to normalize: the one PPO will start from; null: `model`"""
    other: ByContent[ModelName | None] = None
    """reward model of another seed: how often both prefer the same one of two held-out answers is reported"""
    normalization_samples: PositiveInt = 512
    """how many samples the scores are normalized on"""
    max_new_tokens: PositiveInt = 64
    """token budget of those samples: that of the PPO to come"""
    temperature: PositiveFloat = 1.0
    """sampling temperature of those samples"""
    closed: Closing | None = None
    """how this model reads answers that are cut at a token budget: line: to the last whole line, and ended; end: ended
    where they were cut; as_is: unended; null: line where the good answers are written in lines of at most 80
    characters, as code is, else end"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.004, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, values: Any) -> Any:
        return with_defaults_of_kind(values)

    @model_validator(mode="after")
    def _of_kind(self) -> "RewardConfig":
        """What a kind of reward model has no use for is refused."""
        if self.kind != "words" and not self.model:
            raise ValueError("--model is required: what the reward model starts from (kind=words needs none)")
        if self.kind == "words" and self.model:
            raise ValueError(f"kind=words counts words and starts from no model: leave out model={self.model}")
        if self.kind == "model":
            return self
        of_model = {"lora.rank": self.lora.rank, "adapter": self.adapter, "normalize=on": self.normalize == "on"}
        given = next((name for name, value in of_model.items() if value), None)
        if given is not None:
            raise ValueError(f"{given} is of kind=model; kind={self.kind} has none: leave it out")
        if self.kind == "encoder" and self.optimizer.kind != "adamw":
            raise ValueError("kind=encoder takes optimizer.kind=adamw: Muon knows the blocks of Trine's own models")
        return self

    @model_validator(mode="after")
    def _given(self) -> "RewardConfig":
        sources = [name for name in SOURCES if getattr(self, name)]
        if not sources:
            raise ValueError(f"nothing to learn from: give one or more of {', '.join(SOURCES)}")
        if self.held_out and self.held_out_share:
            raise ValueError("held_out and held_out_share both say what to evaluate on: give one of them")
        if self.preferences is not None and self.form == "text":
            raise ValueError("preferences are conversations; give plain text by pairs")
        return self
