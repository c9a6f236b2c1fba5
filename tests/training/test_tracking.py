"""Every tracker is told every row of metrics.jsonl once, however often a run is resumed."""

import json
import sqlite3
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.toy_stage import TOY, ToyConfig
from trine.config.base import LoopConfig
from trine.config.registry import STAGES
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.training import tracking
from trine.training.run_folder import RunFolder, open_run

TRACKIO = "trackio"


class Recorder:
    """A tracker that remembers; `fails` names a step at which it does not answer."""

    fails: int | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def start(self, config: dict[str, Any], folder: Path) -> None:
        self.calls.append(("start", folder))

    def log(self, step: int, row: dict[str, float]) -> None:
        if step == self.fails:
            raise ConnectionError("the server went away")
        self.calls.append(("log", (step, row)))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    @property
    def steps(self) -> list[int]:
        return [value[0] for name, value in self.calls if name == "log"]


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Stands where trackio would: what is made of it, in order."""
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    monkeypatch.setitem(tracking.TRACKERS, TRACKIO, make)
    monkeypatch.setattr("trine.config.extras._is_installed", lambda module: True)
    return made


@pytest.fixture(autouse=True)
def toy_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, TOY.name, TOY)


def config(folder: Path, *names: str) -> ToyConfig:
    return ToyConfig(out=folder, loop=LoopConfig(save_every=0, trackers=names))  # type: ignore[arg-type]


def train(folder: Path, *names: str, resumed_at: int = 0, steps: int) -> None:
    """Steps as the loop logs them: those after the checkpoint again, with an evaluation in every second one."""
    with open_run(config(folder, *names), {}) as run:
        run.forget_after(resumed_at if resumed_at else -1)
        log_steps(run, range(resumed_at + 1, steps + 1))


def log_steps(run: RunFolder, steps: range) -> None:
    for step in steps:
        run.log({"step": step, "loss": 3.0 / step, "note": "text is no figure"})
        if step % 2 == 0:
            run.log({"step": step, "bits_per_byte/folders": 1.0 / step})


def test_a_tracker_is_told_what_the_file_says(tmp_path: Path, recorders: list[Recorder]) -> None:
    train(tmp_path, TRACKIO, steps=2)
    assert recorders[0].calls == [
        ("start", tmp_path),
        ("log", (1, {"loss": 3.0})),
        ("log", (2, {"loss": 1.5})),
        ("log", (2, {"bits_per_byte/folders": 0.5})),
        ("finish", None),
    ]


def test_a_resumed_run_tells_no_step_twice(tmp_path: Path, recorders: list[Recorder]) -> None:
    train(tmp_path, TRACKIO, steps=5)
    train(tmp_path, TRACKIO, resumed_at=2, steps=7)
    assert Counter(recorders[0].steps + recorders[1].steps) == Counter([1, 2, 2, 3, 4, 4, 5, 6, 6, 7])
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7]


def test_a_tracker_named_later_is_told_what_it_missed(tmp_path: Path, recorders: list[Recorder]) -> None:
    train(tmp_path, steps=3)
    train(tmp_path, TRACKIO, resumed_at=2, steps=4)
    assert recorders[0].steps == [1, 2, 2, 3, 4, 4]


def test_a_tracker_that_fails_costs_no_run_and_is_told_later(
    tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Recorder, "fails", 3)
    train(tmp_path, TRACKIO, steps=4)
    assert recorders[0].steps == [1, 2, 2] and len(read_jsonl(tmp_path / "metrics.jsonl")) == 6
    assert "trackio fails and is told no more of this run" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setattr(Recorder, "fails", None)
    train(tmp_path, TRACKIO, resumed_at=4, steps=5)
    assert recorders[1].steps == [3, 4, 4, 5]


def test_a_tracker_that_does_not_start_is_an_error(
    tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Recorder, config: dict[str, Any], folder: Path) -> None:
        raise ValueError("no such project")

    monkeypatch.setattr(Recorder, "start", refuse)
    with pytest.raises(TrineError, match="trackio does not start: no such project"):
        train(tmp_path, TRACKIO, steps=1)


def test_a_package_that_is_not_there_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trine.config.extras._is_installed", lambda module: False)
    with pytest.raises(TrineError, match=r"tensorboard, which is not installed: pip install 'trine\[tensorboard"):
        train(tmp_path / "run", "tensorboard", steps=1)
    assert not (tmp_path / "run").exists()


def test_who_is_told_is_no_part_of_the_result(tmp_path: Path, recorders: list[Recorder]) -> None:
    """The same run goes on with another tracker."""
    train(tmp_path, TRACKIO, steps=1)
    train(tmp_path, steps=2, resumed_at=1)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) >= 2


def test_tensorboard_reads_the_rows_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "tensorboard", steps=3)
    train(tmp_path, "tensorboard", resumed_at=2, steps=4)
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert losses == pytest.approx({1: 3.0, 2: 1.5, 3: 1.0, 4: 0.75})
    assert [event.step for event in events.Scalars("bits_per_byte/folders")] == [2, 4]
    assert "save_every: 0" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


def test_wandb_keeps_the_rows_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DISABLE_GIT", "true"), ("DISABLE_CODE", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "home"))
    run = tmp_path / "run"
    train(run, "wandb", steps=3)
    wandb.teardown()  # its background process writes the file
    files = list((run / "trackers" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1 and read_json(run / "trackers" / "run.json")["id"] in files[0].name
    rows = wandb_rows(files[0])
    assert [row["_step"] for row in rows] == [1, 2, 3]
    assert [row["loss"] for row in rows] == [3.0, 1.5, 1.0]
    assert rows[1]["bits_per_byte/folders"] == 0.5


def wandb_rows(path: Path) -> list[dict[str, Any]]:
    """The history in a .wandb file: 7 bytes, then LevelDB's log format (crc, length, kind, data; kind 1 is whole)."""
    from wandb.proto import wandb_internal_pb2

    data, place, rows = path.read_bytes(), 7, []
    while place < len(data):
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        assert kind == 1
        record = wandb_internal_pb2.Record.FromString(data[place + 7 : place + 7 + length])
        place += 7 + length
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_trackio_keeps_the_rows_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped where trackio is absent: 0.43 asks for an older pillow than constraints.txt pins."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "home"))
    pytest.importorskip("trackio")
    train(tmp_path / "run", TRACKIO, steps=3)
    train(tmp_path / "run", TRACKIO, resumed_at=2, steps=4)
    with sqlite3.connect(tmp_path / "home" / "trine.db") as base:
        rows = base.execute("select step, metrics from metrics order by id").fetchall()
        names = base.execute("select distinct run_name from metrics").fetchall()
    assert [step for step, _ in rows] == [1, 2, 2, 3, 4, 4]
    assert json.loads(rows[1][1]) == {"loss": 1.5} and len(names) == 1
