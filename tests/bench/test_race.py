"""The race: rows in one order, a clock that stands still, and who reached the line when."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.race import race_table
from bench.race_log import RaceLog, read_log, seconds_to_reach
from bench.race_rows import RaceRows

from bench import race_log
from trine.runtime.errors import TrineError

ABOUT = {"steps": 2}


@pytest.fixture
def rows(tmp_path: Path) -> RaceRows:
    np.arange(41, dtype=np.uint16).tofile(tmp_path / "train.bin")
    np.arange(9, dtype=np.uint16).tofile(tmp_path / "held_out.bin")
    (tmp_path / "race.json").write_text('{"dtype": "uint16", "vocab_size": 64, "held_out_bytes": 27}')
    return RaceRows(tmp_path, row_tokens=4, batch_size=2)


def log_of(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"seconds": seconds, "loss": loss, "bits_per_byte": loss} for seconds, loss in points]


def test_an_epoch_goes_through_every_row_once(rows: RaceRows) -> None:
    epoch = [int(window[0]) for step in range(5) for window in rows.batch(step)]
    assert sorted(epoch) == list(range(0, 40, 4))
    assert epoch != sorted(epoch)


def test_rows_are_the_same_for_every_runner_and_carry_one_more_token(rows: RaceRows) -> None:
    rows.batch(7)
    assert rows.batch(1).tolist() == [rows.row(2).tolist(), rows.row(3).tolist()]
    assert rows.batch(1).shape == (2, 5)


def test_validation_reads_the_first_held_out_windows(rows: RaceRows) -> None:
    (only,) = rows.validation(rows=100)
    assert only.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert rows.bytes_per_token == 3.0


def test_rows_that_were_never_made_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"bench\.race prepare"):
        RaceRows(tmp_path, 4, 2)


def test_the_clock_stands_still_while_evaluating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 13.0, 100.0, 102.0])
    monkeypatch.setattr(race_log.time, "perf_counter", lambda: next(now))
    log = RaceLog(tmp_path / "a.jsonl", ABOUT, bytes_per_token=2.0)
    for step in (1, 2):
        log.start()
        log.stop()
        log.write(step, step * 8, loss=np.log(2.0))
    about, points = read_log(tmp_path / "a.jsonl")
    assert about == ABOUT
    assert [point["seconds"] for point in points] == [3.0, 5.0]
    assert points[0]["bits_per_byte"] == pytest.approx(0.5)


def test_the_line_is_reached_at_the_first_evaluation_not_above_it() -> None:
    assert seconds_to_reach(log_of((1, 5.0), (2, 4.0), (3, 3.0)), 4.0) == 2
    assert seconds_to_reach(log_of((1, 5.0)), 4.0) is None


@pytest.mark.parametrize(("seconds", "reached"), [(5.0, True), (5.1, False)])
def test_half_of_the_peers_time_is_the_target_in_fp32(seconds: float, reached: bool) -> None:
    logs: dict[str, Any] = {
        "ours": (ABOUT, log_of((seconds, 3.9), (8, 3.5))), "trainer-fp32": (ABOUT, log_of((5, 5.0), (10, 4.0)))
    }  # fmt: skip
    (row,) = race_table(logs)
    assert (row.ours, row.theirs, row.reached) == (seconds, 10, reached)


def test_a_line_that_was_never_reached_is_no_success() -> None:
    logs: dict[str, Any] = {"ours": (ABOUT, log_of((1, 5.0))), "trainer-bf16": (ABOUT, log_of((10, 4.0)))}
    (row,) = race_table(logs)
    assert (row.ours, row.ratio, row.reached) == (None, None, False)


def test_runs_of_two_races_are_not_compared() -> None:
    logs: dict[str, Any] = {"ours": (ABOUT, log_of((1, 5.0))), "trainer-bf16": ({"steps": 3}, log_of((10, 4.0)))}
    with pytest.raises(TrineError, match="another race"):
        race_table(logs)
