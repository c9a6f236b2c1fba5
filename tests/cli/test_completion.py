"""5.3: shells complete commands, options, choices and recipes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from trine.cli.completion import SCRIPTS, candidates
from trine.config.registry import COMMANDS, STAGES


@pytest.mark.parametrize(
    "words, expected",
    [
        (["pre"], ["preferences", "pretrain", "preview"]),
        (["help", "rew"], ["reward"]),
        (["pretrain", "--corpus.f"], None),
        (["pretrain", "--packing", ""], ["packed", "stream", "windows"]),
        (["pretrain", "--packing", "w"], ["windows"]),
        (["run", "quick"], ["quickstart"]),
        (["recipes", ""], None),
        (["recipes", "show", "control"], ["control", "control-returns"]),
        (["completion", ""], None),
        (["pretrain", "--out", ""], []),
        (["no-such-command", ""], []),
        (["ppo", "--help", ""], ["all"]),
    ],
)
def test_the_last_word_is_completed(words: list[str], expected: list[str] | None) -> None:
    found = candidates(words)
    assert all(each.startswith(words[-1]) for each in found)
    if expected is not None:
        assert found == expected


def test_every_command_and_option_is_offered() -> None:
    from trine.config.fields import config_fields
    from trine.config.registry import command_config_class

    assert {name.split()[0] for name in (*STAGES, *COMMANDS)} <= set(candidates([""]))
    for name in (*STAGES, *COMMANDS):
        options = {f"--{field.name}" for field in config_fields(command_config_class(name))}
        assert options <= set(candidates([*name.split(), "--"]))
    assert "show" in candidates(["recipes", ""]) and "play" in candidates(["control", "p"])
    assert {"bash", "fish", "zsh"} <= set(candidates(["completion", ""]))


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_printed_and_their_shell_reads_them(command: Command, tmp_path: Path, shell: str) -> None:
    code, out, _ = command("completion", shell)
    assert code == 0 and out == SCRIPTS[shell] and "trine --complete" in out
    if shutil.which(shell) and shell != "fish":
        subprocess.run([shell, "-n"], input=out, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path: Path) -> None:
    """5.3: what a TAB after `trine pretrain --packing w` gives."""
    trine = tmp_path / "trine"
    trine.write_text(f'#!/bin/sh\nexec {sys.executable} -m trine "$@"\n')
    trine.chmod(0o755)
    script = (
        f'PATH="{tmp_path}:$PATH"\n{SCRIPTS["bash"]}\n'
        'COMP_WORDS=(trine pretrain --packing w); COMP_CWORD=3; _trine; echo "${COMPREPLY[@]}"\n'
    )
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == "windows\n"
