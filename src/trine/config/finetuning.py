"""Config of the stage finetune."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

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
from trine.config.lora import LoraConfig
from trine.config.resumption import ByContent, ChangesBits, Extends, MayChange
from trine.records import Task

OF_A_TASK = ("trains", "truncation_side", "held_out_by", "compare_with")


class DataSetConfig(Config):
    """Which part of a data set on the Hugging Face hub to read."""

    configuration: str | None = None
    """its configuration (subset), where it has several"""
    split: str = "train"
    """the split to train on"""
    held_out_split: str = "test"
    """the split to evaluate on, where held_out names a data set"""


class FinetuneConfig(StageConfig):
    """Fine-tune a model on conversations, packed several to a row."""

    first = (
        "held_out", "show", "task", "epochs", "batch_size", "optimizer.learning_rate", "lora.rank",
    )  # fmt: skip

    model: ByContent[ModelName]
    """run, model or adapter folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    examples: ByContent[Path]
    """conversations to train on: JSON Lines, JSON, CSV or Parquet (also compressed), a folder of such files, or
    owner/name (owner/name@revision) of a data set on the Hugging Face hub. The form is recognised by its keys: OpenAI
    messages, ShareGPT conversations, Alpaca, {prompt, response}, {prompt, completion}, {question, answer}, {text}"""
    held_out: ByContent[Path | None] = None
    """conversations to evaluate on, in the same forms"""
    held_out_share: Share = 0.0
    """share of the examples to evaluate on instead of training, by a hash of their group or first question"""
    dataset: DataSetConfig = DataSetConfig()
    chat_template: ByContent[Path | None] = None
    """Jinja file to use as the chat template, and to save with the model; null: the model's own"""
    train: Literal["all", "last"] = "all"
    """which answers of a conversation are trained: every one, or the last; those that say "train": false never are"""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """what to do with a conversation longer than row_tokens: stop with an error; cut the oldest exchanges, keeping the
    system message and the last exchange (with task: the longest text); or drop it. Cut and dropped ones are counted in
    done.json"""
    show: MayChange[NonNegativeInt] = 0
    """print the first N rows token by token, what is trained in colour, and exit without training"""
    epochs: Extends[PositiveFloat] = 1.0
    """passes over the examples; may be a fraction. More than a run has extends it"""
    row_tokens: PositiveInt = 256
    """length of a packed row, at most the model's context"""
    batch_size: PositiveInt = 8
    """packed rows per optimizer step; with task: examples"""
    micro_batch_size: ChangesBits[PositiveInt] = 8
    """packed rows (with task: examples) per forward pass; changes memory, not results"""
    prompt_weight: Share = 0.0
    """weight in the loss of the tokens that are not trained as answers: 0 trains answers only, 1 the whole text alike.
    (Not GPT-1's auxiliary loss, which stands beside that of a classification head)"""
    task: Task | None = None
    """train a linear head on the hidden state of an extract token, as GPT-1 did, instead of answers. The examples are
    classify: {text, label}; entail: {premise, hypothesis, label}; similar: {first, second, label}, a name or
    a score; choose: {context, options, label}; or what well-known data sets call these fields"""
    trains: Literal["everything", "head"] = "everything"
    """with task: everything (the head and the new tokens are the only new parameters), or the head and the embeddings
    of the new tokens alone"""
    auxiliary_weight: NonNegativeFloat = 0.5
    """with task: lambda of L3 = L2 + lambda L1, the weight of the language-modelling loss on all tokens of the texts"""
    truncation_side: Literal["right", "left"] = "right"
    """with task and too_long=cut: the side of a text that is cut off; a review's verdict is often at its end, so there
    left is better"""
    held_out_by: str | None = None
    """with task and held_out_share: the field (such as movie) whose records are all trained on or all held out; null:
    records with the same texts"""
    compare_with: ByContent[Path | None] = None
    """with task: a finished run of the same task on the same held-out examples, to test against (exact
    McNemar; of scores the difference of the correlations)"""
    task_tokens: tuple[str, ...] = ()
    """GPT-2's way: names of task tokens, such as '[question]' '[answer]', added to the tokenizer and to the embeddings.
    The examples are then plain text: {text}, {prompt, response}, {prompt, task, response} with the name of a task
    token, or {prompt, slots} with slots {token: text, ...}, the last of which is the answer"""
    parallel: ChangesBits[Literal["auto", "ddp", "fsdp"]] = "auto"
    """under torchrun: ddp keeps the whole model in every process, fsdp shards it over them; auto is ddp"""
    evaluate_tasks: MayChange[tuple[Word, ...]] = ()
    """tasks to ask the model at every evaluation (loop.evaluate_every): names, or YAML files, as of trine evaluate"""
    task_data: MayChange[dict[str, str]] = Field(default={})
    """files of records of tasks that name none: TASK=FILE"""
    keep_best: MayChange[str | None] = None
    """keep the model of the evaluation that is best in this figure, TASK/FIGURE of evaluate_tasks, as best/"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.005, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="after")
    def _task_settings(self) -> "FinetuneConfig":
        if self.task is not None and self.task_tokens:
            raise ValueError("task trains a head, task_tokens a language model: give one of them")
        if self.task is not None and self.evaluate_tasks:
            raise ValueError("evaluate_tasks asks a language model, and task trains a head: give one of them")
        if self.task is not None and self.trains == "head" and self.lora.rank:
            raise ValueError("trains=head trains no adapters: leave out lora.rank, or set trains=everything")
        given = [name for name in OF_A_TASK if getattr(self, name) != type(self).model_fields[name].default]
        if self.task is None and given:
            raise ValueError(f"{given[0]} belongs to a task: add task=classify, entail, similar or choose")
        return self
