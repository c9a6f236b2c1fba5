"""Config of the stage finetune."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from trine.config.base import (
    LoopConfig,
    ModelName,
    NonNegativeFloat,
    OptimizerConfig,
    PositiveFloat,
    PositiveInt,
    Share,
    StageConfig,
)
from trine.config.lora import LoraConfig
from trine.config.resumption import ByContent, ChangesBits, Extends
from trine.records import Task

OF_A_TASK = ("trains", "truncation_side", "held_out_by", "compare_with")


class FinetuneConfig(StageConfig):
    """Fine-tune a model on prompts and answers, packed several to a row."""

    first = ("held_out", "epochs", "batch_size", "micro_batch_size", "optimizer.learning_rate", "lora.rank")

    model: ByContent[ModelName]
    """run, model or adapter folder to start from, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    examples: ByContent[Path]
    """JSONL of {prompt, response} to train on"""
    held_out: ByContent[Path | None] = None
    """JSONL of {prompt, response} to evaluate on"""
    epochs: Extends[PositiveFloat] = 1.0
    """passes over the examples; may be a fraction. More than a run has extends it"""
    row_tokens: PositiveInt = 256
    """length of a packed row, at most the model's context"""
    batch_size: PositiveInt = 8
    """packed rows per optimizer step"""
    micro_batch_size: ChangesBits[PositiveInt] = 8
    """packed rows per forward pass; changes memory, not results"""
    prompt_weight: Share = 0.0
    """weight of the auxiliary language-modelling loss on prompt tokens (GPT-1 used 0.5)"""
    task: Task | None = None
    """train a linear head on the hidden state of an extract token, as GPT-1 did, instead of answers. The examples are
    classify: {text, label}; entail: {premise, hypothesis, label}; similar: {first, second, label}; choose: {context,
    options, label}; or what well-known data sets call these fields"""
    trains: Literal["everything", "head"] = "everything"
    """with task: everything (the head and the new tokens are the only new parameters), or the head and the embeddings
    of the new tokens alone"""
    auxiliary_weight: NonNegativeFloat = 0.5
    """with task: lambda of L3 = L2 + lambda L1, the weight of the language-modelling loss on all tokens of the texts"""
    held_out_share: Share = 0.0
    """share of the examples to evaluate on instead of training"""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """what to do with an example longer than row_tokens: stop; cut its longest text; or drop it"""
    truncation_side: Literal["right", "left"] = "right"
    """with task and too_long=cut: the side of a text that is cut off; a review's verdict is often at its end, so there
    left is better"""
    held_out_by: str | None = None
    """with task and held_out_share: the field (such as movie) whose records are all trained on or all held out; null:
    records with the same texts"""
    compare_with: ByContent[Path | None] = None
    """with task: a finished run of the same task on the same held-out examples, to test against (exact McNemar)"""
    task_tokens: tuple[str, ...] = ()
    """GPT-2's way: names of task tokens, such as '[question]' '[answer]', added to the tokenizer and to the embeddings.
    The examples are then plain text: {text}, {prompt, response}, {prompt, task, response} with the name of a task
    token, or {prompt, slots} with slots {token: text, ...}, the last of which is the answer"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.005, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="after")
    def _task_settings(self) -> "FinetuneConfig":
        if self.task is not None and self.task_tokens:
            raise ValueError("task trains a head, task_tokens a language model: give one of them")
        if self.task is not None and self.trains == "head" and self.lora.rank:
            raise ValueError("trains=head trains no adapters: leave out lora.rank, or set trains=everything")
        given = [name for name in OF_A_TASK if getattr(self, name) != type(self).model_fields[name].default]
        if self.task is None and given:
            raise ValueError(f"{given[0]} belongs to a task: add task=classify, entail, similar or choose")
        return self
