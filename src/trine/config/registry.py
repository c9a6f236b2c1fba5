"""The stages by name: what each does, and where its config and its run function live. Imports nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trine.config.base import Config, StageConfig

# name: (config module, config class, one line for --help)
STAGES: dict[str, tuple[str, str, str]] = {
    "tokenizer": ("trine.config.text", "TokenizerConfig", "train a byte-level BPE tokenizer on a corpus"),
    "shards": ("trine.config.text", "ShardsConfig", "encode a corpus once, for many pretraining runs"),
    "pretrain": ("trine.config.text", "PretrainConfig", "train a GPT from scratch on plain text"),
    "functions": ("trine.config.text", "FunctionsConfig", "mine tasks from code: signature and docstring to body"),
    "finetune": ("trine.config.align", "FinetuneConfig", "fine-tune a model on prompts and answers"),
    "compare": ("trine.config.align", "CompareConfig", "make comparisons: a person's answer against a sampled one"),
    "reward": ("trine.config.align", "RewardConfig", "train a reward model on comparisons"),
    "ppo": ("trine.config.align", "PpoConfig", "improve a policy against a reward by PPO"),
    "evaluate": ("trine.config.align", "EvaluateConfig", "compare a policy before and after PPO"),
    "control": ("trine.config.control", "ControlConfig", "train an agent in a Gymnasium environment, by the same PPO"),
}


# Commands that are no stage.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "quickstart": ("trine.config.use", "QuickstartConfig", "all three steps on Python code, then a report"),
    "run": ("trine.config.use", "RunConfig", "run a recipe"),
    "report": ("trine.config.use", "ReportConfig", "draw the report of a run"),
    "generate": ("trine.config.use", "GenerateConfig", "write with a model"),
    "chat": ("trine.config.use", "ChatConfig", "talk with a model in the terminal"),
    "import": ("trine.config.use", "ImportConfig", "bring a model in from a folder, a GGUF file or the hub"),
    "push": ("trine.config.use", "PushConfig", "upload a model to the Hugging Face hub"),
    "export": ("trine.config.use", "ExportConfig", "write a model for transformers or llama.cpp"),
    "control play": ("trine.config.control", "PlayConfig", "watch an agent that `trine control` trained"),
}


def config_class(stage: str) -> "type[StageConfig]":
    """The config class of a stage."""
    module, name, _ = STAGES[stage]
    cls: type[StageConfig] = getattr(import_module(module), name)
    return cls


def command_config_class(command: str) -> "type[Config]":
    """The config class of a stage or command."""
    module, name, _ = {**STAGES, **COMMANDS}[command]
    cls: type[Config] = getattr(import_module(module), name)
    return cls
