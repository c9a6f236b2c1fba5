"""The names of `import trine`, and where each is: a few by hand, and a function for every stage.

Nothing heavy is imported here. A stage that is registered later has its function at once: `trine.<stage>(...)`.
"""

from typing import Any

from trine.config.registry import STAGES
from trine.config.stage import Reference, follow

NAMES: dict[str, Reference] = {
    "Completion": "trine.api.completion:Completion",
    "Limits": "trine.config.sandbox:Limits",
    "Message": "trine.records:Message",
    "Model": "trine.api.model:Model",
    "RecipeResult": "trine.api.recipes:RecipeResult",
    "Report": "trine.api.recipes:Report",
    "Result": "trine.api.stages:Result",
    "Reward": "trine.api.reward:Reward",
    "TrineError": "trine.runtime.errors:TrineError",
    "Verdict": "trine.sandbox.running:Verdict",
    "load": "trine.api.model:load",
    "load_reward": "trine.api.reward:load_reward",
    "run_tests": "trine.sandbox.running:run_tests",
    "run_tests_batch": "trine.sandbox.running:run_tests_batch",
}
COMMANDS: dict[str, tuple[str, Reference]] = {
    "run": ("run", "trine.api.recipes:run"),
    "quickstart": ("quickstart", "trine.api.recipes:quickstart"),
    "write_report": ("report", "trine.api.recipes:write_report"),
}
"""Commands of the command line with a function: its name here, there, and what it calls with the command's config."""
# `trine.tokenizer` and `trine.report` are packages, which Python binds to these names as soon as they are imported.
OF_PACKAGES = {"tokenizer": "train_tokenizer", "report": "write_report"}


# What Python does not take as a name is spelled out.
SPELLED_OUT = {"reinforce++": "reinforce_plus_plus"}


def function_name(stage: str) -> str:
    """What the function of a stage is called: as the stage."""
    return (OF_PACKAGES | SPELLED_OUT).get(stage, stage)


def public_names() -> list[str]:
    """Every name that `import trine` offers."""
    return [*NAMES, *COMMANDS, *map(function_name, STAGES)]


def public(name: str) -> Any:
    """What `trine.<name>` is. Raises `AttributeError` naming the nearest name there is."""
    if name in NAMES:
        return follow(NAMES[name])
    if name in COMMANDS:
        from trine.api.functions import command_function

        return command_function(name, *COMMANDS[name])
    stage = next((stage for stage in STAGES.values() if function_name(stage.name) == name), None)
    if stage is not None:
        from trine.api.stages import stage_function

        return stage_function(name, stage)
    raise AttributeError(f"module 'trine' has no attribute {name!r}{_suggestion(name)}")


def _suggestion(name: str) -> str:
    if name.startswith("_"):
        return ""
    if name in OF_PACKAGES:
        return f"; did you mean {OF_PACKAGES[name]!r}?"
    from trine.config.loading import nearest

    return nearest(name, public_names())
