"""A stage is its work alone: folder, inputs and seed are `stage_run`'s."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trine.config.base import HardwareConfig, StageConfig
from trine.config.registry import STAGES
from trine.config.resumption import ByContent
from trine.config.stage import Stage
from trine.runtime.errors import TrineError
from trine.runtime.source_code import own_files
from trine.training.stage_run import StageRun, stage_run


class ToyConfig(StageConfig):
    """A stage that reads a file, and perhaps a second one."""

    examples: ByContent[Path]
    held_out: ByContent[Path | None] = None
    scorer: ByContent[str] = ""


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
    folder = run(toy(tmp_path, held_out=held_out, scorer="operator:eq"))
    inputs = json.loads((folder / "run.json").read_text())["inputs"]
    assert inputs.keys() == {"examples", "held_out", "scorer"} and inputs["examples"] == inputs["held_out"]
    held_out.write_text("[]\n")
    with pytest.raises(TrineError, match="held_out: its content has changed"):
        run(toy(tmp_path, held_out=held_out, scorer="operator:eq"))


def test_the_code_of_a_function_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.25: only its name was known, so that a finished run stood for another function's."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helpers_of_it.py").write_text("def length(prompts, responses):\n    return [1.0]\n")
    (tmp_path / "my_scorer.py").write_text("from helpers_of_it import length\n\n\ndef one(a, b):\n    return [1.0]\n")

    def score(name: str) -> Path:
        for module in ("my_scorer", "helpers_of_it"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        return run(toy(tmp_path, scorer=name))

    folder = score("my_scorer:one")
    assert score("my_scorer:one") == folder
    with pytest.raises(TrineError, match="scorer: its content has changed"):
        score("my_scorer:length")  # defined in another file
    (tmp_path / "my_scorer.py").write_text("def one(a, b):\n    return [0.5]\n")
    with pytest.raises(TrineError, match="scorer: its content has changed"):
        score("my_scorer:one")
    (tmp_path / "renamed.py").write_text("from helpers_of_it import length\n\n\ndef one(a, b):\n    return [1.0]\n")
    assert score("renamed:one") == folder  # the same function, elsewhere


def test_installed_code_is_known_by_its_name() -> None:
    assert own_files(json.loads, json, partial(json.dumps, indent=1), pytest.raises, print) == set()
    assert {file.name for file in own_files(run, partial(run, 1), ToyConfig)} == {"test_stage_run.py"}


def test_the_precision_that_ran_is_recorded_and_another_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.18: the record did not say what ran, and a run was continued in another precision."""
    folder = run(toy(tmp_path, hardware=HardwareConfig(device="cpu", precision="bf16", threads=1)))
    ran_on = json.loads((folder / "run.json").read_text())["ran_on"]
    assert {name: ran_on[name] for name in ("device", "precision", "threads", "processes")} == {
        "device": "cpu", "precision": "bf16", "threads": 1, "processes": 1,
    }  # fmt: skip
    monkeypatch.setenv("TRINE_PRECISION", "bf16")
    run(toy(tmp_path, hardware=HardwareConfig(device="cpu")))  # auto, and the same in the end
    monkeypatch.setenv("TRINE_PRECISION", "fp32")
    with pytest.raises(TrineError, match=r"hardware\.precision: bf16 → fp32"):
        run(toy(tmp_path, hardware=HardwareConfig(device="cpu")))
    run(toy(tmp_path, hardware=HardwareConfig(device="cpu", precision="bf16")))  # stated, it wins


def test_an_input_that_is_left_out_is_none(tmp_path: Path) -> None:
    folder = run(toy(tmp_path))
    assert json.loads((folder / "run.json").read_text())["inputs"].keys() == {"examples"}
