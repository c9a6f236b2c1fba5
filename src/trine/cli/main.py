"""The `trine` command: find the command, parse its options, call it, and turn what goes wrong into words.

Exit codes: 0 done, 1 done and the answer is no (evaluate --fail-if-worse), 2 wrong input, 130 / 143 stopped by Ctrl-C /
SIGTERM after saving. Nothing heavy is imported before the command is known.
"""

import sys

from trine.config.registry import COMMANDS, STAGES
from trine.runtime.errors import QuietError, TrineError
from trine.runtime.launch import launch

COMPLETE = "--complete"
"""what the shells' completion calls: trine --complete WORDS"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _dispatch(arguments)
    except QuietError:
        return 2
    except TrineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except BrokenPipeError:
        return 141


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"] and len(arguments) > 1:
        everything = ["all"] if arguments[-1] == "all" and len(arguments) > 2 else []
        arguments = [*arguments[1 : len(arguments) - len(everything)], "--help", *everything]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from trine.cli.overview import print_overview

        print_overview(
            {stage.name: stage.help for stage in STAGES.values()},
            {name: words for name, (_, words) in COMMANDS.items()},
        )
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        from trine import __version__

        sys.stdout.write(f"trine {__version__}\n")
        return 0
    if arguments[0] == COMPLETE:
        from trine.cli.completion import print_candidates

        print_candidates(arguments[1:])
        return 0
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    return _run(_command(" ".join(arguments[:words])), arguments[words:])


def _command(name: str) -> str:
    if name not in STAGES and name not in COMMANDS:
        from trine.config.loading import nearest

        raise TrineError(f"unknown command {name!r}{nearest(name, [*STAGES, *COMMANDS])}")
    return name


def _run(command: str, arguments: list[str]) -> int:
    from trine.cli.arguments import parse
    from trine.config.registry import command_config_class

    config, dry_run = parse(command, command_config_class(command), arguments)
    from trine.cli.commands import perform
    from trine.runtime.signals import Interrupted

    try:
        return perform(command, config, dry_run=dry_run)
    except Interrupted as interruption:
        if launch().rank == 0:
            sys.stderr.write(f"{interruption}; the same command continues\n")
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
