"""What each command does once its config is known."""

import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

from trine.config.control import PlayConfig
from trine.config.registry import STAGES
from trine.config.stage import Printed, Stage, follow
from trine.config.use import (
    ChatConfig,
    CompletionConfig,
    EnvConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    PushConfig,
    QuickstartConfig,
    RecipesConfig,
    ReportConfig,
    RunConfig,
    ScoreConfig,
    ShowRecipeConfig,
    VerifyConfig,
)
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.launch import launch
from trine.runtime.progress import say
from trine.runtime.signals import stop_request

# Commands that look for a stop request between steps; the others leave at once on Ctrl-C.
LONG_COMMANDS = ("quickstart", "run")


def perform(command: str, config: Any, *, dry_run: bool) -> int:
    """Call the command; results go to standard output, words about it to standard error. Returns the exit code."""
    keep_freed_memory()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what its encoding cannot express stops no command
    if dry_run:
        from trine.cli.dry_run import describe

        sys.stdout.write(describe(command, config) + "\n")
        return 0
    if command in STAGES or command in LONG_COMMANDS:
        stop_request.install()
    if command in STAGES:
        return _perform_stage(STAGES[command], config)
    _COMMANDS[command](config)
    return 0


def _perform_stage(stage: Stage, config: Any) -> int:
    stop_request.check()
    path = stage.run_function()(config)
    stop_request.check()
    if not getattr(config, "show", 0):  # what only shows writes no folder
        say(f"{stage.name}: done, in {path}")
    if stage.prints is None or launch().rank > 0:
        return 0
    printed: Printed = follow(stage.prints)(config, path)
    sys.stdout.write(printed.text)
    return printed.exit_code


def quickstart(config: QuickstartConfig) -> None:
    values = config.model_dump()
    run_recipe(RunConfig(recipe="quickstart", **values))
    out = config.out
    say(
        "\nThree things to try next:\n"
        f"  trine generate {out}/pretrain --prompt 'import numpy as'\n"
        f"  trine chat {out}/ppo\n"
        "  trine recipes show quickstart > my.yaml     # change it, then: trine run my.yaml --out runs/mine"
    )


def run_recipe(config: RunConfig) -> None:
    from trine.pipeline.runner import run

    run(config)


def recipes(config: RecipesConfig) -> None:
    from trine.pipeline.recipe_file import built_in_recipes, read_recipe_file

    names = built_in_recipes()
    width = max(map(len, names))
    sys.stdout.writelines(f"{name:<{width}}  {read_recipe_file(name)[0].title}\n" for name in names)
    say("trine run NAME --out runs/mine runs one; trine recipes show NAME prints it, to copy and change")


def show_recipe(config: ShowRecipeConfig) -> None:
    from trine.pipeline.recipe_file import recipe_text

    sys.stdout.write(recipe_text(config.recipe))


def env(config: EnvConfig) -> None:
    from trine.cli.environment import describe_environment

    sys.stdout.write(describe_environment())


def completion(config: CompletionConfig) -> None:
    from trine.cli.completion import SCRIPTS

    sys.stdout.write(SCRIPTS[config.shell])


def report(config: ReportConfig) -> None:
    from trine.report.report import write_report

    path, text = write_report(config.out, plots=config.plots)
    sys.stdout.write(text + "\n")
    say(f"report: {path}")


def verify(config: VerifyConfig) -> None:
    from trine.pipeline.verifying import verify as verified

    sys.stdout.writelines(f"{line}\n" for line in verified(config.folder))


def generate(config: GenerateConfig) -> None:
    from trine.cli.generate import write

    write(config)


def score(config: ScoreConfig) -> None:
    from trine.cli.score import write

    write(config)


def chat(config: ChatConfig) -> None:
    from trine.cli.chat import talk

    talk(config)


def import_model(config: ImportConfig) -> None:
    from trine.cli.exchange import import_model as bring_in

    bring_in(config)


def export_model(config: ExportConfig) -> None:
    from trine.cli.exchange import export_model as write_out

    write_out(config)


def push(config: PushConfig) -> None:
    from trine.catalog.publishing import push_model

    sys.stdout.write(push_model(config.model, config.repository, private=config.private) + "\n")


def play(config: PlayConfig) -> None:
    from trine.cli.play import play as play_agent

    play_agent(config)


_COMMANDS: dict[str, Callable[[Any], None]] = {
    "quickstart": quickstart,
    "run": run_recipe,
    "recipes": recipes,
    "recipes show": show_recipe,
    "report": report,
    "verify": verify,
    "generate": generate,
    "score": score,
    "chat": chat,
    "import": import_model,
    "export": export_model,
    "push": push,
    "control play": play,
    "env": env,
    "completion": completion,
}
