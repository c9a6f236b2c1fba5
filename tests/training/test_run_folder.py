"""A run folder knows what it was made from, refuses anything else, and tells each step once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.toy_stage import TOY, ToyConfig
from trine.config.control import ControlConfig
from trine.config.registry import STAGES
from trine.runtime.errors import TrineError
from trine.training import run_folder
from trine.training.run_folder import RunFolder, fingerprint, open_run


@pytest.fixture(autouse=True)
def toy_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, TOY.name, TOY)


def config(folder: Path, **changes: Any) -> ToyConfig:
    return ToyConfig(out=folder, **changes)


def test_the_folder_tells_config_inputs_and_versions(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run"), {"corpus": "abc"}) as run:
        record = json.loads((run.path / "run.json").read_text())
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written == config(tmp_path / "run").model_dump(mode="json")
    assert (record["stage"], record["inputs"]) == ("toy", {"corpus": "abc"})
    assert {"out", "overwrite"}.isdisjoint(record["config"]) and record["config"].keys() >= {"seed", "count", "loop"}
    assert {"python", "torch", "platform"} <= record["made_with"].keys()


def test_the_same_config_again_finds_what_was_finished(tmp_path: Path) -> None:
    with open_run(config(tmp_path), {}) as run:
        assert not run.finished
        run.checkpoints.mkdir()
        run.finish({"loss": 1.5})
    with open_run(config(tmp_path), {}) as run:
        assert run.finished and run.results == {"loss": 1.5}
        assert not run.checkpoints.exists()


@pytest.mark.parametrize(
    "changes, inputs, named",
    [
        ({"seed": 1}, {"corpus": "abc"}, "seed"),
        ({"loop": {"save_every": 7}}, {"corpus": "abc"}, "loop.save_every"),
        ({"count": 9, "seed": 5}, {"corpus": "abc"}, "count, seed"),
        ({}, {"corpus": "xyz"}, "inputs.corpus"),
    ],
)
def test_another_config_is_refused_with_the_keys_that_changed(
    tmp_path: Path, changes: dict[str, Any], inputs: dict[str, str], named: str
) -> None:
    with open_run(config(tmp_path), {"corpus": "abc"}) as run:
        run.log({"step": 1})
    words = rf"{tmp_path} holds a run with another config \({named} changed\).*another --out, or --overwrite true"
    with pytest.raises(TrineError, match=words), open_run(config(tmp_path, **changes), inputs):
        pass


def test_a_run_that_never_began_gives_way_to_another_config(tmp_path: Path) -> None:
    with open_run(config(tmp_path), {}):
        pass
    with open_run(config(tmp_path, seed=1), {}) as run:
        assert json.loads((run.path / "run.json").read_text())["config"]["seed"] == 1


def test_another_version_of_trine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(config(tmp_path), {}) as run:
        run.log({"step": 1})
    monkeypatch.setattr(run_folder, "__version__", "99")
    with pytest.raises(TrineError, match="trine version changed"), open_run(config(tmp_path), {}):
        pass


def test_overwriting_starts_from_an_empty_folder(tmp_path: Path) -> None:
    with open_run(config(tmp_path), {}) as run:
        (run.checkpoints / "step-00000001").mkdir(parents=True)
        run.log({"step": 1})
        (run.path / "done.json").write_text("{}")
    with open_run(config(tmp_path, seed=1, overwrite=True), {}) as run:
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml", "run.json"]


def test_overwriting_nothing_new_keeps_the_run(tmp_path: Path) -> None:
    with open_run(config(tmp_path), {}) as run:
        run.finish({})
    with open_run(config(tmp_path, overwrite=True), {}) as run:
        assert run.finished


def test_overwriting_that_is_killed_midway_starts_over_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left of the old run must not pass for the new one's."""
    with open_run(config(tmp_path), {}) as run:
        run.checkpoints.mkdir()

    def be_killed(path: Path) -> None:
        raise KeyboardInterrupt

    changed = config(tmp_path, seed=1, overwrite=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", be_killed)
        with open_run(changed, {}):
            pass
    with open_run(changed, {}) as run:
        assert not run.checkpoints.exists()


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_rows_beyond_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(1, 6):
        run.log({"step": step, "loss": 1.0})
    run.log({"step": 3, "held_out": 2.0})
    run.forget_after(3)
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 3]


def test_half_a_row_of_a_killed_process_is_mended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log({"step": 1})
    with open(run.metrics, "a") as file:
        file.write('{"step": 2, "lo')
    run.forget_after(5)
    run.log({"step": 2})
    assert rows(run) == [{"step": 1}, {"step": 2}]


def test_half_a_first_row_is_mended_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text('{"st')
    run.forget_after(-1)
    assert rows(run) == []


def test_a_run_is_known_by_what_it_was_made_from(tmp_path: Path) -> None:
    for name, changes, inputs in (
        ("a", {}, {"x": "1"}),
        ("b", {}, {"x": "1"}),
        ("c", {"seed": 1}, {"x": "1"}),
        ("d", {}, {}),
    ):
        with open_run(config(tmp_path / name, **changes), inputs):
            (tmp_path / name / "model").mkdir()
    prints = {name: fingerprint(tmp_path / name) for name in "abcd"}
    assert prints["a"] == prints["b"] == fingerprint(tmp_path / "a" / "model")
    assert len(set(prints.values())) == 3


def test_files_and_foreign_folders_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("abc")
    before = fingerprint(tmp_path / "model"), fingerprint(tmp_path / "model" / "weights")
    (tmp_path / "model" / "weights").write_text("abcd")
    assert before[0] != fingerprint(tmp_path / "model") and before[1] != fingerprint(tmp_path / "model" / "weights")


def test_a_missing_input_names_itself(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"nowhere does not exist; run the stage that makes it first"):
        fingerprint(tmp_path / "nowhere")


def test_starting_over_leaves_what_no_stage_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "other_run").mkdir()
    with open_run(config(tmp_path), {}):
        pass
    with open_run(config(tmp_path, seed=1), {}) as run:
        run.log({"step": 1})
    with open_run(config(tmp_path, seed=2, overwrite=True), {}) as run:
        assert not run.metrics.exists()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "other_run").is_dir()


def other_stage(folder: Path, **changes: Any) -> ControlConfig:
    return ControlConfig(out=folder, environment="CartPole-v1", **changes)


def test_a_run_of_another_stage_is_refused_and_named(tmp_path: Path) -> None:
    with open_run(other_stage(tmp_path), {}) as run:
        (run.path / "agent").mkdir()
    words = r"holds a run of the stage control; give another --out, or --overwrite true"
    with pytest.raises(TrineError, match=words), open_run(config(tmp_path), {}):
        pass


def test_starting_over_removes_the_outputs_of_the_stage_that_was_here_and_no_others(tmp_path: Path) -> None:
    """toy.json is an output of the toy, but no toy has run here: the file is the user's."""
    with open_run(other_stage(tmp_path), {}) as run:
        (run.path / "agent").mkdir()
        (run.path / "film.gif").write_bytes(b"")
        (run.path / "toy.json").write_text("mine")
    with open_run(config(tmp_path, overwrite=True), {}) as run:
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml", "run.json", "toy.json"]


def test_a_record_without_a_stage_is_taken_for_the_stage_that_finds_it(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    with open_run(config(tmp_path), {}) as run:
        run.finish({})
        record = json.loads((run.path / "run.json").read_text())
        del record["stage"]
        (run.path / "run.json").write_text(json.dumps(record))
    with open_run(config(tmp_path), {}) as run:
        assert run.finished
    with pytest.raises(TrineError, match=r"\(seed changed\)"), open_run(config(tmp_path, seed=1), {}):
        pass
