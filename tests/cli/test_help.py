"""5.3: help shows first what one needs first, with types, choices and defaults, at the terminal's width."""

from collections.abc import Iterator

import pytest

from tests.conftest import Command
from trine.cli.help import help_text
from trine.cli.overview import MIN_WIDTH
from trine.config.fields import config_fields
from trine.config.registry import COMMANDS, STAGES, command_config_class

NAMES = [*STAGES, *COMMANDS]
MOST = 12


def options(text: str) -> Iterator[str]:
    return (line.split()[0] for line in text.splitlines() if line.startswith("  --"))


@pytest.mark.parametrize("name", NAMES)
def test_the_handful_one_needs_comes_first_and_the_rest_under_all(name: str) -> None:
    """5.3: required options on top; what is not shown is counted."""
    cls = command_config_class(name)
    fields = config_fields(cls)
    short, long = (help_text(name, cls, everything=everything, width=80) for everything in (False, True))
    required = [f"--{field.name}" for field in fields if field.required]
    assert list(options(short))[: len(required)] == list(options(long))[: len(required)] == required
    assert set(options(long)) == {f"--{field.name}" for field in fields} | {"--config", "--dry_run"}
    hidden = set(options(long)) - set(options(short))
    assert len(set(options(short))) <= MOST
    assert (f"{len(hidden)} more options: trine {name} --help all" in short) == bool(hidden)
    assert "VALUE" not in short.replace("KEY=VALUE", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_options_are_options(name: str) -> None:
    cls = command_config_class(name)
    assert set(cls.first) <= {field.name for field in config_fields(cls)}


@pytest.mark.parametrize("width", [20, MIN_WIDTH, 40, 60, 80, 132])
@pytest.mark.parametrize("name", ["pretrain", "control", "run"])
def test_no_line_is_wider_than_the_terminal(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    """5.3: COLUMNS is kept, down to the least width that can be read."""
    monkeypatch.setenv("COLUMNS", str(width))
    for arguments in (("--help",), (name, "--help", "all"), (name, "--help")):
        text = output(command, capsys, *arguments)
        assert max(map(len, text.splitlines())) <= max(width, MIN_WIDTH)


def output(command: Command, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        code, text, _ = command(*arguments)
    except SystemExit as leaving:
        code, text = leaving.code, capsys.readouterr().out
    assert code == 0
    return text


@pytest.mark.parametrize(
    "words, same",
    [
        (("help", "ppo"), ("ppo", "--help")),
        (("help", "control", "play"), ("control", "play", "--help")),
        (("help", "ppo", "all"), ("ppo", "--help", "all")),
        (("ppo", "-h"), ("ppo", "--help")),
        (("ppo", "--help=all"), ("ppo", "--help", "all")),
    ],
)
def test_help_of_a_command_is_asked_for_in_any_order(
    command: Command, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], same: tuple[str, ...]
) -> None:
    """5.3: `trine help ppo` is `trine ppo --help`."""
    assert output(command, capsys, *words) == output(command, capsys, *same)


def test_help_of_an_unknown_command_names_the_nearest(command: Command) -> None:
    assert command("help", "pretrian")[2] == "error: unknown command 'pretrian'; did you mean 'pretrain'?\n"


def test_types_choices_and_defaults_are_shown() -> None:
    """5.3: INT, PATH, {a,b} in place of VALUE."""
    text = help_text("pretrain", command_config_class("pretrain"), everything=True, width=100)
    for words in (
        "--tokens INT", "--out PATH", "--packing {packed,windows,stream}", "--corpus.folders PATH ...",
        "--corpus.distributions KEY=NUMBER ...", "--optimizer.learning_rate NUMBER", "--sample_prompts TEXT ...",
        "--loop.trackers {tensorboard,wandb,trackio} ...", "(default: 100_000_000; larger extends a run)", "(required",
    ):  # fmt: skip
        assert words in " ".join(text.split()), words
    assert "--model MODEL" in help_text("chat", command_config_class("chat"), everything=False, width=80)
    assert "--max_bytes BYTES" in help_text("tokenizer", command_config_class("tokenizer"), everything=True, width=80)
