"""A stage is its work alone: folder, inputs and seed are `stage_run`'s."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trine.config.base import StageConfig
from trine.config.registry import STAGES
from trine.config.stage import Stage
from trine.runtime.errors import TrineError
from trine.training.stage_run import StageRun, stage_run


class ToyConfig(StageConfig):
    """A stage that reads a file, and perhaps a second one."""

    examples: Path
    held_out: Path | None = None
    scorer: str = ""


@stage_run("examples", "held_out", "scorer")
def run(config: ToyConfig, stage: StageRun) -> dict[str, Any]:
    """Write what was read."""
    (stage.path / "all.jsonl").write_text(config.examples.read_text())
    return {"first": float(torch.rand(1))}


@pytest.fixture(autouse=True)
def toy_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"config": f"{__name__}:ToyConfig", "run": f"{__name__}:run"}
    monkeypatch.setitem(STAGES, "toy", Stage("toy", "read a file", outputs=("all.jsonl",), **names))


def toy(tmp_path: Path, **fields: Any) -> ToyConfig:
    examples = tmp_path / "examples.jsonl"
    if not examples.exists():
        examples.write_text("{}\n")
    return ToyConfig(out=tmp_path / "run", examples=examples, **fields)


def done(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "done.json").read_text()))


def test_the_results_are_those_of_the_work_and_the_seed_is_set_before(tmp_path: Path) -> None:
    folder = run(toy(tmp_path, seed=3))
    torch.manual_seed(3)
    assert folder == tmp_path / "run"
    assert done(folder) == {"first": float(torch.rand(1))}
    assert run.__doc__ == "Write what was read."


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    folder = run(toy(tmp_path))
    (folder / "all.jsonl").write_text("changed")
    run(toy(tmp_path))
    assert (folder / "all.jsonl").read_text() == "changed"


def test_inputs_that_are_given_are_part_of_the_run(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("{}\n")
    folder = run(toy(tmp_path, held_out=held_out, scorer="package.module:function"))
    inputs = json.loads((folder / "run.json").read_text())["inputs"]
    assert inputs.keys() == {"examples", "held_out", "scorer"}
    assert inputs["scorer"] == "package.module:function" and inputs["examples"] == inputs["held_out"]
    held_out.write_text("[]\n")
    with pytest.raises(TrineError, match=r"inputs\.held_out changed"):
        run(toy(tmp_path, held_out=held_out, scorer="package.module:function"))


def test_an_input_that_is_left_out_is_none(tmp_path: Path) -> None:
    folder = run(toy(tmp_path))
    assert json.loads((folder / "run.json").read_text())["inputs"].keys() == {"examples"}
