"""`trine env` prints what a bug report needs, and nothing of a person."""

import getpass
import platform
from pathlib import Path

import pytest

from tests.conftest import Command


def test_what_a_bug_report_needs_is_printed(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRINE_NATIVE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("CXX", f"{tmp_path}/private/c++")
    code, out, _ = command("env")
    assert code == 0
    rows = dict(line.split(":", 1) for line in out.splitlines())
    for name in ("trine", "python", "system", "processor", "threads", "memory", "compiler", "kernels", "torch", "gpu"):
        assert rows[name].strip(), name
    assert "TRINE_NATIVE=0" in rows["settings"] and "torch " in rows["packages"]
    for secret in ("hf_secret", str(tmp_path), str(Path.home()), platform.node()):
        assert secret not in out or len(secret) < 4, secret
    assert f"/{getpass.getuser()}/" not in out


def test_the_recipes_are_listed_and_shown(command: Command) -> None:
    from trine.pipeline.recipe_file import built_in_recipes, recipe_text

    code, out, _ = command("recipes")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == built_in_recipes()
    assert all(len(line.split()) > 2 for line in out.splitlines())
    assert command("recipes", "show", "quickstart")[:2] == (0, recipe_text("quickstart"))
    assert "did you mean 'quickstart'?" in command("recipes", "show", "quickstrat")[2]
