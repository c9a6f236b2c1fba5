"""Config of the stage finetune."""

from pathlib import Path

from trine.config.base import LoopConfig, ModelName, OptimizerConfig, PositiveFloat, PositiveInt, Share, StageConfig
from trine.config.lora import LoraConfig
from trine.config.resumption import ByContent, ChangesBits, Extends


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
    task_tokens: tuple[str, ...] = ()
    """GPT-2's way: names of task tokens, such as '[question]' '[answer]', added to the tokenizer and to the embeddings.
    The examples are then plain text: {text}, {prompt, response}, {prompt, task, response} with the name of a task
    token, or {prompt, slots} with slots {token: text, ...}, the last of which is the answer"""
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.005, learning_rate_rest=0.001)
    loop: LoopConfig = LoopConfig()
