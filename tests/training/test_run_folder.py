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
from trine.training import run_record
from trine.training.inputs import fingerprint
from trine.training.run_folder import RunFolder, open_run


@pytest.fixture(autouse=True)
def toy_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, TOY.name, TOY)


def config(folder: Path, **changes: Any) -> ToyConfig:
    return ToyConfig(out=folder, **changes)


def test_the_folder_tells_config_inputs_and_versions(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run"), {"corpus": "abc"}) as run:
        record = json.loads((run.path / "run.json").read_text())
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written == config(tmp_path / "run").model_dump(mode="json") | {"out": "."}
    assert (record["stage"], record["inputs"]) == ("toy", {"corpus": "abc"})
    assert record["config"] == written
    assert {"python", "platform"} <= record["made_with"].keys() and {"trine", "torch"} <= record["ran_on"].keys()


def test_the_same_config_again_finds_what_was_finished(tmp_path: Path) -> None:
    with open_run(config(tmp_path), {}) as run:
        assert not run.finished
        run.checkpoints.mkdir()
        run.finish({"loss": 1.5})
    with open_run(config(tmp_path), {}) as run:
        assert run.finished and run.results == {"loss": 1.5}


@pytest.mark.parametrize(
    "changes, inputs, named",
    [
        ({"seed": 1}, {"corpus": "abc"}, "seed: 0 → 1"),
        ({"count": 9, "seed": 5}, {"corpus": "abc"}, "seed: 0 → 5\n  count: 3 → 9"),
        ({}, {"corpus": "xyz"}, "corpus: its content has changed"),
        ({}, {}, "corpus: given → unset"),
    ],
)
def test_another_config_is_refused_with_what_changed_and_advice_that_keeps_the_work(
    tmp_path: Path, changes: dict[str, Any], inputs: dict[str, str], named: str
) -> None:
    """1.1: the advice was to destroy the run. Deleting is mentioned last, with what it would delete."""
    with open_run(config(tmp_path), {"corpus": "abc"}) as run:
        run.log({"step": 7})
        (run.checkpoints / "step-00000005").mkdir(parents=True)
        (tmp_path / "toy.json").write_text("x" * 250_000)
    with pytest.raises(TrineError) as refusal, open_run(config(tmp_path, **changes), inputs):
        pass
    assert str(refusal.value) == (
        f"{tmp_path} holds a run with other settings:\n  {named}\nGive another --out, or the settings of that run. "
        "(--overwrite true would delete 1 checkpoint up to step 5, the metrics of 7 steps, toy.json (0.2 MB))"
    )


def test_a_run_that_never_began_gives_way_to_another_config(tmp_path: Path) -> None:
    with open_run(config(tmp_path), {}):
        pass
    with open_run(config(tmp_path, seed=1), {}) as run:
        assert json.loads((run.path / "run.json").read_text())["config"]["seed"] == 1


def test_another_version_of_trine_continues_and_says_that_bits_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.2: a newer Trine forbade resuming."""
    with open_run(config(tmp_path), {}) as run:
        (run.checkpoints / "step-00000005").mkdir(parents=True)
    monkeypatch.setattr(run_record, "__version__", "99")
    said = says(monkeypatch)
    with open_run(config(tmp_path), {}) as run:
        assert not run.finished
    assert len(said) == 1 and "→ 99: not bit for bit" in said[0]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["ran_on"]["trine"] == "99" and record["continued"][0]["after_step"] == 5
    with open_run(config(tmp_path), {}):
        assert len(said) == 1


def says(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    for module in ("training.continuing", "training.run_folder", "runtime.logs"):
        monkeypatch.setattr(f"trine.{module}.say", lambda text, style="": said.append(text))
    return said


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


def test_a_run_folder_as_input_is_known_by_what_it_makes_for_others(tmp_path: Path) -> None:
    """1.1: by content: neither where it lies nor what else is in it counts; a changed byte does."""
    for name in "abc":
        with open_run(config(tmp_path / name, seed=ord(name)), {}) as run:
            run.log({"step": ord(name)})
            (run.path / "toy.json").write_text("other" if name == "c" else "same")
            (run.path / "notes").mkdir()
            (run.path / "notes" / "page").write_text("x")
    prints = {name: fingerprint(tmp_path / name) for name in "abc"}
    assert prints["a"] == prints["b"] != prints["c"]
    (tmp_path / "b" / "notes" / "page").write_text("y")
    assert fingerprint(tmp_path / "b") != prints["a"]
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "link") == prints["a"]


def test_files_and_foreign_folders_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("abc")
    before = fingerprint(tmp_path / "model"), fingerprint(tmp_path / "model" / "weights")
    (tmp_path / "model" / "README.md").write_text("a page about it")
    (tmp_path / "model" / ".notes").write_text("hidden")
    assert before[0] == fingerprint(tmp_path / "model")
    (tmp_path / "model" / "weights").write_text("abcd")
    assert before[0] != fingerprint(tmp_path / "model") and before[1] != fingerprint(tmp_path / "model" / "weights")


def test_a_missing_input_names_itself(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"nowhere does not exist; correct the path, or finish the run"):
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
    words = r"holds a run of the stage control; give another --out\. \(--overwrite true would delete agent/"
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


def test_the_record_of_an_earlier_version_is_refused_with_words(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({"config": {"seed": 0}, "inputs": {}, "trine": "0.4", "stage": "toy"})
    )
    (tmp_path / "done.json").write_text("{}")
    words = r"a run of an earlier version of Trine \(0.4\).*continue it with that version, or give another --out"
    with pytest.raises(TrineError, match=words), open_run(config(tmp_path), {}):
        pass
    assert (tmp_path / "done.json").exists()


def test_files_that_no_record_explains_are_not_touched(tmp_path: Path) -> None:
    """A folder with a model of somebody's own, or a run whose run.json was lost."""
    (tmp_path / "toy.json").write_text("mine")
    for overwrite in (False, True):
        words = r"holds toy.json \(0.0 MB\) and no run.json that says what made them"
        with pytest.raises(TrineError, match=words), open_run(config(tmp_path, overwrite=overwrite), {}):
            pass
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["toy.json"]


@pytest.mark.parametrize("name", ["building", "partial"])
def test_a_run_that_was_stopped_while_writing_an_output_has_begun(tmp_path: Path, name: str) -> None:
    """1.4: what lay aside unfinished was thrown away unasked."""
    with open_run(config(tmp_path), {}) as run:
        (run.path / f".notes.{name}").mkdir()
    with pytest.raises(TrineError, match=r"would delete \.notes"), open_run(config(tmp_path, seed=1), {}):
        pass
    with open_run(config(tmp_path, seed=1, overwrite=True), {}):
        assert not (tmp_path / f".notes.{name}").exists()
