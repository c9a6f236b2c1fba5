"""Stages and commands by name. `config/stage.py` says what a description holds, `config/stages.py` has all of them."""

from typing import TYPE_CHECKING

from trine.config.stage import Reference, Stage, follow
from trine.config.stages import BUILT_IN
from trine.runtime.errors import TrineError

if TYPE_CHECKING:
    from trine.config.base import Config, StageConfig

STAGES: dict[str, Stage] = {stage.name: stage for stage in BUILT_IN}


def register(stage: Stage) -> None:
    """Make `stage` known; one of the same name is replaced."""
    STAGES[stage.name] = stage


def stage_of(config: "StageConfig") -> Stage:
    """The stage that `config` is a config of."""
    for stage in STAGES.values():
        if stage.config_class() is type(config):
            return stage
    raise TrineError(f"no stage takes a {type(config).__name__}; `trine.config.registry.register` makes a stage known")


# Commands that are no stage.
COMMANDS: dict[str, tuple[Reference, str]] = {
    "quickstart": ("trine.config.use:QuickstartConfig", "all three steps on Python code, then a report"),
    "run": ("trine.config.use:RunConfig", "run a recipe"),
    "recipes": ("trine.config.use:RecipesConfig", "list the built-in recipes; recipes show NAME prints one"),
    "recipes show": ("trine.config.use:ShowRecipeConfig", "print a built-in recipe, to copy"),
    "report": ("trine.config.use:ReportConfig", "write the report of a run"),
    "verify": ("trine.config.use:VerifyConfig", "check that shards and weights are what was written"),
    "generate": ("trine.config.use:GenerateConfig", "generate text with a model"),
    "score": ("trine.config.use:ScoreConfig", "score texts with a reward"),
    "chat": ("trine.config.use:ChatConfig", "chat with a model in the terminal"),
    "import": ("trine.config.use:ImportConfig", "import a model from a folder, a GGUF file or the Hub"),
    "push": ("trine.config.use:PushConfig", "upload a model to the Hugging Face Hub"),
    "export": ("trine.config.use:ExportConfig", "export a model for transformers or llama.cpp"),
    "control play": ("trine.config.control:PlayConfig", "watch an agent that `trine control` trained"),
    "env": ("trine.config.use:EnvConfig", "print what a bug report needs"),
    "completion": ("trine.config.use:CompletionConfig", "print the completion of a shell"),
}


def config_class(stage: str) -> "type[StageConfig]":
    """The config class of a stage."""
    return STAGES[stage].config_class()


def command_config_class(command: str) -> "type[Config]":
    """The config class of a stage or command."""
    if command in STAGES:
        return config_class(command)
    cls: type[Config] = follow(COMMANDS[command][0])
    return cls
