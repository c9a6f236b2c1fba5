"""Commands are found by name, answer at once, and what goes wrong becomes words and an exit code."""

import subprocess
import sys

import pytest

from tests.conftest import Command
from trine import __version__
from trine.cli import main as main_module
from trine.config.registry import COMMANDS, STAGES
from trine.runtime.signals import Interrupted


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview_names_every_command(command: Command, arguments: tuple[str, ...]) -> None:
    code, out, _ = command(*arguments)
    assert code == 0
    helps = {stage.name: stage.help for stage in STAGES.values()}
    for name, words in {**helps, **{name: words for name, (_, words) in COMMANDS.items()}}.items():
        assert name in out and words in out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_overview_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from trine.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = ('torch', 'numpy', 'pydantic', 'transformers', 'tokenizers', 'yaml', 'rich'); "
        "print([name for name in heavy if name in sys.modules], code)"
    )
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[] 0"


def test_help_of_a_stage_needs_no_pytorch() -> None:
    script = (
        "import sys; from trine.cli.main import main\n"
        "try: main(['pretrain', '--help'])\n"
        "except SystemExit as leaving: print(leaving.code, [n for n in ('torch', 'numpy') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 []"


def test_the_version_is_told(command: Command) -> None:
    assert command("--version") == (0, f"trine {__version__}\n", "")


def test_an_unknown_command_is_named_with_the_nearest(command: Command) -> None:
    code, out, words = command("pretrian", "--out", "x")
    assert (code, out) == (2, "")
    assert words == "error: unknown command 'pretrian'; did you mean 'pretrain'?\n"


@pytest.mark.parametrize("error, code", [(Interrupted(15), 143), (Interrupted(2), 130), (KeyboardInterrupt(), 130)])
def test_a_stopped_command_leaves_with_the_signals_code(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def perform(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("trine.cli.commands.perform", perform)
    assert command("report", "somewhere")[0] == code


def test_a_reader_that_left_is_no_error(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def dispatch(arguments: list[str]) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(main_module, "_dispatch", dispatch)
    assert command("--help")[0] == 141
