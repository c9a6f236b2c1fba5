"""Config of the stage finetune."""

from pathlib import Path
from typing import Literal

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
    Word,
)
from trine.config.lora import LoraConfig
from trine.config.resumption import ByContent, ChangesBits, Extends, MayChange


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
        "held_out", "too_long", "show", "epochs", "batch_size", "optimizer.learning_rate", "lora.rank",
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
    system message and the last exchange; or drop it. Cut and dropped ones are counted in done.json"""
    show: MayChange[NonNegativeInt] = 0
    """print the first N rows token by token, what is trained in colour, and exit without training"""
    epochs: Extends[PositiveFloat] = 1.0
    """passes over the examples; may be a fraction. More than a run has extends it"""
    row_tokens: PositiveInt = 256
    """length of a packed row, at most the model's context"""
    batch_size: PositiveInt = 8
    """packed rows per optimizer step"""
    micro_batch_size: ChangesBits[PositiveInt] = 8
    """packed rows per forward pass; changes memory, not results"""
    prompt_weight: Share = 0.0
    """weight in the loss of the tokens that are not trained as answers: 0 trains answers only, 1 the whole text alike.
    (Not GPT-1's auxiliary loss, which stands beside that of a classification head)"""
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
