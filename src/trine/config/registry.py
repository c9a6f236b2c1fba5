"""The stages and commands by name. A stage is described once, here, and lazily: every part that is code is a reference
"package.module:name", followed when it is needed, so that `trine --help` imports nothing heavy.

A description alone makes a stage a command, a step of a recipe, a section of the report and a line of `--dry-run`:

    register(Stage("toy", "my.module:ToyConfig", "my.module:run", "train a toy", outputs=("toy.json",)))
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trine.config.base import Config, StageConfig

Reference = str
"""package.module:name"""


def follow(reference: Reference) -> Any:
    """What `reference` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Stage:
    """All that the rest of Trine knows of one stage.

    `outputs`: files and folders of its run folder that starting over removes, besides those that every run has.
    `makes`: what a later stage, `trine push` or a reader finds in the run folder, if it is a model.
    `sections`: the report's sections, in the order of the page, each `(StageRun, RecipeRun) -> Section`.
    `summary`: from done.json's results to a few words for the report's overview. `estimate`: from the config (and the
    vocabulary sizes of tokenizers that the recipe itself makes, by run folder) to the lines of `--dry-run`.
    """

    name: str
    config: Reference
    run: Reference
    help: str
    outputs: tuple[str, ...] = ()
    makes: str = ""
    sections: tuple[Reference, ...] = ()
    headline: Reference | None = None
    summary: Reference | None = None
    estimate: Reference | None = None

    def config_class(self) -> "type[StageConfig]":
        cls: type[StageConfig] = follow(self.config)
        return cls

    def run_function(self) -> "Callable[[Any], Any]":
        run: Callable[[Any], Any] = follow(self.run)
        return run


STAGES: dict[str, Stage] = {}


def register(stage: Stage) -> None:
    """Make `stage` known; one of the same name is replaced."""
    STAGES[stage.name] = stage


def _register_built_in() -> None:
    for name, config, run, words in (
        ("tokenizer", "text:TokenizerConfig", "pretraining.tokenizer", "train a byte-level BPE tokenizer on a corpus"),
        ("shards", "text:ShardsConfig", "pretraining.shards", "encode a corpus once, for many pretraining runs"),
        ("pretrain", "text:PretrainConfig", "pretraining.pretrain", "train a GPT from scratch on plain text"),
        (
            "functions",
            "text:FunctionsConfig",
            "tasks.functions",
            "mine tasks from code: signature and docstring to body",
        ),
        ("finetune", "finetuning:FinetuneConfig", "finetuning.finetune", "fine-tune a model on prompts and answers"),
        (
            "preferences",
            "preferences:PreferencesConfig",
            "preferences.pairs",
            "make preference pairs: a person's answer against a sampled one",
        ),
        ("reward", "preferences:RewardConfig", "preferences.reward", "train a reward model on preference pairs"),
        ("ppo", "rl:PpoConfig", "rl.ppo", "improve a policy against a reward by PPO"),
        (
            "evaluate",
            "evaluation:EvaluateConfig",
            "evaluation.compare_policies",
            "compare a policy before and after PPO",
        ),
        (
            "control",
            "control:ControlConfig",
            "control.control",
            "train an agent in a Gymnasium environment, by the same PPO",
        ),
    ):
        register(Stage(name, f"trine.config.{config}", f"trine.stages.{run}:run", words))


_register_built_in()


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
    return STAGES[stage].config_class()


def command_config_class(command: str) -> "type[Config]":
    """The config class of a stage or command."""
    if command in STAGES:
        return config_class(command)
    module, name, _ = COMMANDS[command]
    cls: type[Config] = getattr(import_module(module), name)
    return cls
