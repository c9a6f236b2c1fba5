"""A stage is known by its description alone: nothing in `src/` names `tests/toy_stage.py`, which is one in full."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.toy_stage import TOY, ToyConfig, run
from trine.config.registry import STAGES
from trine.report.run_reader import read_recipe_run
from trine.runtime.files import read_json, read_jsonl
from trine.runtime.signals import Interrupted, StopRequest

RECIPE = """
title: Two toys
stages:
  - {stage: toy, name: first, config: {count: 2}}
  - {stage: toy, name: second, config: {count: 3, after: "@first"}}
"""


@pytest.fixture(autouse=True)
def toy_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, TOY.name, TOY)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toys.yaml"
    path.write_text(RECIPE)
    return path


def test_nothing_in_the_source_names_it() -> None:
    import trine

    source = Path(trine.__path__[0])
    assert not [path for path in source.rglob("*.py") if "toy_stage" in path.read_text() or '"toy"' in path.read_text()]


def test_it_is_a_command_with_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert "toy           count, as a stage would" in command("--help")[1]
    with pytest.raises(SystemExit):
        command("toy", "--help")
    shown = capsys.readouterr().out
    assert "usage: trine toy" in shown and "how far to count (default: 3)" in shown


def test_as_a_command_it_runs_once(command: Command, tmp_path: Path) -> None:
    assert command("toy", "--out", tmp_path / "run", "--count", 4)[0] == 0
    assert read_json(tmp_path / "run" / "done.json") == {"number": 4}
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert command("toy", "--out", tmp_path / "run", "--count", 4)[0] == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_mistyped_option_is_refused(command: Command, tmp_path: Path) -> None:
    code, _, words = command("toy", "--out", tmp_path, "--cuont", 4)
    assert code == 2 and "count" in words


def test_its_dry_run_has_a_line_of_its_own(command: Command, tmp_path: Path, recipe: Path) -> None:
    code, out, _ = command("toy", "--out", tmp_path / "run", "--dry-run")
    assert code == 0 and "# numbers: 3" in out
    code, out, _ = command("run", recipe, "--out", tmp_path / "run", "--dry-run")
    assert code == 0 and "## second (stage toy)" in out
    assert "# numbers: 2" in out and "# numbers: 5" in out  # the second knows the config of the first
    assert not (tmp_path / "run").exists()


def test_it_is_a_recipe_step_with_a_section_and_an_overview_line(
    command: Command, tmp_path: Path, recipe: Path
) -> None:
    code, text, _ = command("run", recipe, "--out", tmp_path / "run")
    assert code == 0 and read_json(tmp_path / "run" / "second" / "done.json") == {"number": 5}
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    for words in ("Counting: first", "Counting: second", "counted to 2", "counted to 5"):
        assert words in text and words in page
    found = read_recipe_run(tmp_path / "run").made_at("anywhere/second", "a number")
    assert found is not None and found.results == {"number": 5}


def test_one_run_without_a_recipe_has_a_report(command: Command, tmp_path: Path) -> None:
    command("toy", "--out", tmp_path / "run")
    code, text, _ = command("report", tmp_path / "run")
    assert code == 0 and "Counting" in text and "counted to 3" in text


def test_stopped_it_continues_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ToyConfig(out=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopRequest, "check", interrupt)
        run(config)
    assert read_json(tmp_path / "toy.json") == {"number": 1} and not (tmp_path / "done.json").exists()
    run(config)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def interrupt(self: StopRequest) -> None:
    raise Interrupted(signal.SIGTERM)


def test_killed_midway_its_folder_is_no_finished_run(tmp_path: Path) -> None:
    """By SIGKILL, from which nothing is saved; the same command makes the same run."""
    script = (
        "import os, signal\n"
        "from tests.toy_stage import TOY, ToyConfig, run\n"
        "from trine.config.registry import register\n"
        "from trine.runtime.signals import StopRequest\n"
        "register(TOY)\n"
        "StopRequest.check = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"run(ToyConfig(out={str(tmp_path)!r}))\n"
    )
    root = Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "toy.json").exists()
    run(ToyConfig(out=tmp_path))
    assert read_json(tmp_path / "done.json") == {"number": 3}
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_another_config_is_refused_and_overwriting_removes_its_outputs_only(command: Command, tmp_path: Path) -> None:
    command("toy", "--out", tmp_path, "--count", 4)
    (tmp_path / "notes" / "page").write_text("the stage's")
    (tmp_path / "model").mkdir()  # an output of other stages, and here nobody's
    (tmp_path / "diary.txt").write_text("mine")
    code, _, words = command("toy", "--out", tmp_path, "--count", 2)
    assert code == 2 and "count: 4 → 2" in words and read_json(tmp_path / "done.json") == {"number": 4}
    assert command("toy", "--out", tmp_path, "--count", 2, "--overwrite", "true")[0] == 0
    assert read_json(tmp_path / "done.json") == {"number": 2}
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 2
    assert not (tmp_path / "notes" / "page").exists()
    assert (tmp_path / "model").is_dir() and (tmp_path / "diary.txt").read_text() == "mine"
    assert json.loads((tmp_path / "run.json").read_text())["stage"] == "toy"
