"""What a run is: stopped, killed, moved, copied, named otherwise, extended in any order, it is the run in one go."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.mutations import mutations
from tests.training.fitting import FITTING, HAPPENINGS, FittingConfig, Killed, kill, run, signal
from trine.config.registry import STAGES
from trine.report.run_reader import read_recipe_run
from trine.runtime.errors import TrineError
from trine.runtime.signals import Interrupted, stop_request
from trine.training.checkpoints import list_checkpoints

LONGEST = 12


@pytest.fixture(autouse=True)
def fitting_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, FITTING.name, FITTING)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.chdir(Path.cwd())  # and back


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for module in (
        "training.continuing",
        "training.run_folder",
        "training.loop",
        "training.checkpoints",
        "runtime.logs",
    ):
        monkeypatch.setattr(f"trine.{module}.say", lambda text, style="": lines.append(text))
    return lines


def project(folder: Path) -> Path:
    """A recipe's folder with the input of a run."""
    folder.mkdir()
    (folder / "numbers.txt").write_text("0.5")
    return folder


def config(place: Path, **changes: Any) -> FittingConfig:
    loop = {"save_every": 3, "evaluate_every": 2} | changes.pop("loop", {})
    optimizer = changes.pop("optimizer", {})
    return FittingConfig(numbers=place / "numbers.txt", out=place / "run", loop=loop, optimizer=optimizer, **changes)


def train(settings: FittingConfig, happenings: dict[int, Any] | None = None) -> str:
    """How it ended."""
    HAPPENINGS.update(happenings or {})
    try:
        run(settings)
        return "finished"
    except (Interrupted, Killed) as error:
        return type(error).__name__
    finally:
        HAPPENINGS.clear()
        stop_request.forget()


def made(place: Path) -> dict[str, Any]:
    """What a run made, apart from how long it took."""
    logs = {name: (place / "run" / name).read_text().splitlines() for name in ("metrics.jsonl", "samples.jsonl")}
    rows = {name: [json.loads(line) for line in lines] for name, lines in logs.items()}
    for row in rows["metrics.jsonl"]:
        row.pop("seconds", None)
    return rows | {"model": (place / "run" / "model" / "model.safetensors").read_bytes()}


def spelled(place: Path, random_: random.Random) -> Path:
    """Another path to the same folder; perhaps another working directory."""
    os.chdir(random_.choice([place, place.parent, Path("/")]))
    kind = random_.randrange(4)
    if kind == 0:
        return place
    if kind == 1:
        return Path(os.path.relpath(place))
    if kind == 2:
        return place / "run" / ".." if (place / "run").is_dir() else place
    link = place.parent / f"link-{random_.randrange(10**9)}"
    link.symlink_to(place)
    return link


def elsewhere(place: Path, random_: random.Random) -> Path:
    """The folder moved, or copied and the original gone on differently."""
    new = place.parent / f"moved-{random_.randrange(10**9)}"
    if random_.random() < 0.5:
        return place.rename(new)
    shutil.copytree(place, new)
    return new


@pytest.mark.parametrize("decay", ["constant", "wsd"])
@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_continuing_moving_and_extending_is_the_run_in_one_go(
    tmp_path: Path, said: list[str], decay: str, seed: int
) -> None:
    """1.1, 1.2: the bytes of weights, metrics and samples."""
    random_ = random.Random(f"{seed}-{decay}")
    straight, place = project(tmp_path / "straight"), project(tmp_path / "place")
    assert train(config(straight, steps=LONGEST, optimizer={"decay": decay})) == "finished"
    steps = random_.choice([5, 6, LONGEST])
    for _ in range(random_.randrange(3, 7)):
        happening = (
            {random_.randrange(1, LONGEST + 1): random_.choice([signal, kill])} if random_.random() < 0.7 else {}
        )
        loop = {"save_every": random_.randrange(1, 5), "keep_checkpoints": random_.randrange(1, 4)}
        settings = config(spelled(place, random_), steps=steps, loop=loop, optimizer={"decay": decay})
        train(settings, happening)
        if random_.random() < 0.5:
            os.chdir("/")
            place = elsewhere(place, random_)
        if random_.random() < 0.5:
            steps = random_.randrange(steps, LONGEST + 1)
    assert train(config(spelled(place, random_), steps=LONGEST, optimizer={"decay": decay})) == "finished"
    assert made(place) == made(straight)
    assert not [line for line in said if "not bit for bit" in line]


def test_a_finished_run_is_found_wherever_it_lies(tmp_path: Path, said: list[str]) -> None:
    """1.1: "holds a run with another config" after a move."""
    place = project(tmp_path / "place")
    train(config(place))
    before = {path: path.read_bytes() for path in sorted((place / "run").rglob("*")) if path.is_file()}
    for seed in range(8):
        train(config(spelled(place, random.Random(seed))))
    assert {path: path.read_bytes() for path in before} == before
    shutil.copytree(place, tmp_path / "copy")
    place.rename(tmp_path / "gone")
    assert train(config(tmp_path / "copy"), dict.fromkeys(range(20), kill)) == "finished"


def test_the_record_names_no_place_of_this_machine(tmp_path: Path) -> None:
    place = project(tmp_path / "place")
    train(config(place))
    for name in ("run.json", "config.yaml", "done.json"):
        assert str(tmp_path) not in (place / "run" / name).read_text()
    assert json.loads((place / "run" / "run.json").read_text())["config"]["numbers"] == "../numbers.txt"
    outside = config(place).model_copy(update={"out": tmp_path / "other" / "run"})
    train(outside)
    record = json.loads((tmp_path / "other" / "run" / "run.json").read_text())
    assert record["config"]["numbers"] == str(place / "numbers.txt")


def test_what_lies_there_counts_not_its_path(tmp_path: Path) -> None:
    place = project(tmp_path / "place")
    train(config(place))
    (place / "renamed.txt").write_text("0.5")
    other = config(place).model_copy(update={"numbers": place / "renamed.txt"})
    assert train(other, dict.fromkeys(range(20), kill)) == "finished"
    (place / "numbers.txt").write_text("0.25")
    with pytest.raises(TrineError, match="numbers: its content has changed"):
        run(config(place))


@pytest.mark.parametrize("finished", [True, False])
def test_a_longer_budget_extends_a_run_and_a_shorter_one_is_refused(
    tmp_path: Path, said: list[str], finished: bool
) -> None:
    """1.2: there was no way to extend a run."""
    place = project(tmp_path / "place")
    train(config(place, steps=6), {} if finished else {5: signal})
    assert (place / "run" / "done.json").exists() == finished
    train(config(place, steps=9))
    assert f"{place / 'run'} is extended: steps: 6 → 9; from here on the learning rate" in said[-2]
    assert f"continuing after step {6 if finished else 5} of 9 (it was to end after 6)" in said[-1]
    (entry,) = json.loads((place / "run" / "run.json").read_text())["continued"]
    assert entry["changed"] == {"steps": [6, 9]} and ("finished_before" in entry) == finished
    with pytest.raises(TrineError, match=r"steps: 9 → 7; a run can be made longer, not shorter"):
        run(config(place, steps=7))


def test_a_finished_run_keeps_one_checkpoint_or_none(tmp_path: Path) -> None:
    for name, loop, kept in (("a", {}, [6]), ("b", {"keep_last": False}, []), ("c", {"save_every": 0}, [])):
        place = project(tmp_path / name)
        train(config(place, loop=loop))
        assert [int(path.name[5:]) for path in list_checkpoints(place / "run" / "checkpoints")] == kept
        if not kept:
            with pytest.raises(TrineError, match=r"is finished and keeps no checkpoint .* could be extended"):
                run(config(place, steps=9, loop=loop))
            assert (place / "run" / "done.json").exists()
    place = project(tmp_path / "wsd")
    train(config(place, optimizer={"decay": "wsd"}))
    assert [path.name for path in list_checkpoints(place / "run" / "checkpoints")] == ["step-00000003"]


def test_what_changes_bits_is_told_once_and_what_does_not_is_not(tmp_path: Path, said: list[str]) -> None:
    """1.2: micro-batches, threads, intervals forbade resuming."""
    place = project(tmp_path / "place")
    train(config(place), {4: signal})
    train(config(place, loop={"save_every": 2, "evaluate_every": 3, "keep_checkpoints": 5}), {5: signal})
    assert not [line for line in said if "not bit for bit" in line]
    train(config(place, rows=2, hardware={"threads": 2}), {6: signal})
    told = [line for line in said if "not bit for bit" in line]
    assert len(told) == 1 and "rows: 4 → 2" in told[0] and "threads: 1 → 2" in told[0]
    record = json.loads((place / "run" / "run.json").read_text())
    assert record["ran_on"]["threads"] == 2 and record["continued"][-1]["changed"]["threads"] == [1, 2]
    assert train(config(place, rows=2, hardware={"threads": 2})) == "finished"
    assert len([line for line in said if "not bit for bit" in line]) == 1


def test_another_precision_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.18: it was continued in another precision."""
    place = project(tmp_path / "place")
    train(config(place), {4: signal})
    with pytest.raises(TrineError, match=r"hardware\.precision: fp32 → bf16"):
        run(config(place, hardware={"precision": "bf16"}))


def damage(path: Path) -> None:
    for file in path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])


def test_with_all_checkpoints_damaged_nothing_is_rewritten(tmp_path: Path) -> None:
    """1.5: it trained from 0 and rewrote the metrics."""
    place = project(tmp_path / "place")
    train(config(place, loop={"save_every": 1}), {5: signal})
    for path in list_checkpoints(place / "run" / "checkpoints"):
        damage(path)
    before = (place / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(TrineError, match="all checkpoints in .* are damaged"):  # noqa: RUF043
        run(config(place))
    assert (place / "run" / "metrics.jsonl").read_bytes() == before


def test_with_one_damaged_checkpoint_the_result_is_the_same(tmp_path: Path, said: list[str]) -> None:
    straight, place = project(tmp_path / "straight"), project(tmp_path / "place")
    train(config(straight))
    train(config(place, loop={"save_every": 2}), {5: signal})
    damage(list_checkpoints(place / "run" / "checkpoints")[-1])
    train(config(place))
    assert "falling back to the checkpoint of step 4: 1 steps are trained again" in "\n".join(said)
    assert made(place) == made(straight)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_no_damage_of_a_log_stops_a_run(tmp_path: Path, said: list[str], name: str) -> None:
    """3.11: one garbage line in the middle stopped it. It is told and kept aside; the weights are the same."""
    straight, place = project(tmp_path / "straight"), project(tmp_path / "place")
    train(config(straight))
    train(config(place), {5: signal})
    data = (place / "run" / name).read_bytes()
    for number, (label, damaged) in enumerate(mutations(data, seed=3, count=40)):
        copy = tmp_path / f"{number}"
        shutil.copytree(place, copy)
        (copy / "run" / name).write_bytes(damaged)
        said.clear()
        assert train(config(copy)) == "finished", label
        assert made(copy)["model"] == made(straight)["model"], label
        same = made(copy)[name] == made(straight)[name]
        told = any(name in line for line in said)
        # A changed digit and a repeated line are rows like others; nobody can tell. Rows that are gone are told.
        whole = len(made(copy)[name]) >= len(made(straight)[name])
        assert same or told or whole, label
        lines = damaged.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        kept = (copy / "run" / f"{name}.damaged").read_bytes() if told and "moved" in "".join(said) else b""
        assert all(line + b"\n" in kept for line in lines[:-1] if line.strip() and not is_row(line)), label


def is_row(line: bytes) -> bool:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("step", 0), int | float)


@pytest.mark.parametrize("name", ["run.json", "done.json", "config.yaml"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_record_is_an_error_that_names_it(tmp_path: Path, said: list[str], name: str, finished: bool) -> None:
    """3.11 and its kind: the right result, or an error naming the file or what would be another run."""
    place = project(tmp_path / "place")
    train(config(place), {} if finished else {5: signal})
    if not (place / "run" / name).exists():
        return
    model = made(place)["model"] if finished else None
    data = (place / "run" / name).read_bytes()
    for number, (label, damaged) in enumerate(mutations(data, seed=4, count=40)):
        copy = tmp_path / f"{number}"
        shutil.copytree(place, copy)
        (copy / "run" / name).write_bytes(damaged)
        try:
            assert train(config(copy)) == "finished", label
            if model is not None:
                assert made(copy)["model"] == model, label
        except TrineError as error:
            assert str(copy / "run") in str(error) and "Traceback" not in str(error), label
        assert (copy / "run" / "metrics.jsonl").exists()
        try:
            read_recipe_run(copy)
        except TrineError as error:
            assert str(copy) in str(error), label
