"""`make bench-gpu` without a GPU: its rows run, keep to their budget, and need no more than a PyTorch image has."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.gpu.nanogpt import nanogpt_of
from bench.gpu.plan import BUDGET, ROWS, Row, comparisons, result_in, run_in_process, run_rows
from bench.gpu.stand_ins import REPLACED, BaseModel

from tests.tiny import random_ids, tiny_config, tiny_model

ROOT = Path(__file__).parents[2]
NEEDED_BY_TRANSFORMERS = {"regex", "yaml", "jinja2", "rich"}
WITHOUT = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = ["bench.gpu", *{options}]
runpy.run_module("bench.gpu", run_name="__main__")
"""


def test_every_row_runs_where_there_is_pytorch_and_transformers_only(tmp_path: Path) -> None:
    absent = set(REPLACED) - NEEDED_BY_TRANSFORMERS
    options = ["--device", "cpu", "--tiny", "--in-process", "--out", str(tmp_path / "gpu.json")]
    program = WITHOUT.replace("{absent}", repr(absent)).replace("{options}", repr(options))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "src", "HF_HUB_OFFLINE": "1", "TRINE_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found["machine"]["stand_ins"]) == absent
    rows = {row["row"]: row for row in found["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {row.name: "done" for row in ROWS}
    assert set(rows["decoding"]["figures"]) >= {"B=2", "B=1", "copy_bandwidth"}
    assert rows["training"]["figures"]["ratio_to_nanogpt"] > 0
    assert rows["training"]["figures"]["matmul_share"] > 0
    assert rows["tests"]["figures"]["passed"] == 2
    assert rows["ppo"]["figures"]["engine_difference"] < 0.05


def test_the_rows_fit_into_eight_minutes_one_after_the_other() -> None:
    assert BUDGET == 480
    assert sum(row.limit for row in ROWS) <= BUDGET
    assert all(row.needs <= row.limit for row in ROWS)


def ticking(*seconds: float) -> Iterator[float]:
    now = 0.0
    for each in seconds:
        now += each
        yield now


def test_what_no_longer_fits_is_skipped_and_said_and_a_shorter_row_still_runs() -> None:
    rows = [Row("long", 60, 10, ""), Row("longer", 60, 50, ""), Row("short", 60, 5, "")]
    times = ticking(0, 0, 0, 60, 0, 0, 0, 3)  # start; left, begin, end; left; left, begin, end
    given: list[tuple[str, float]] = []
    written: list[int] = []

    def run(row: Row, seconds: float) -> dict[str, Any]:
        given.append((row.name, seconds))
        return {"status": "done", "figures": {}}

    results = run_rows(rows, run, lambda so_far: written.append(len(so_far)), 100, lambda: next(times))
    assert given == [("long", 60), ("short", 40)]
    assert [result["status"] for result in results] == ["done", "skipped", "done"]
    assert results[1]["error"] == "40 s of 100 are left; needs 50"
    assert [result.get("seconds") for result in results] == [60, None, 3]
    assert written == [1, 2, 3]


def test_a_row_that_takes_too_long_is_stopped() -> None:
    assert run_in_process(ROWS[0], 0.2, ["--device", "cpu", "--tiny"])["status"] == "stopped"


def test_a_result_is_the_last_json_of_what_was_said() -> None:
    assert result_in('noise\n{"status": "done"}\nmore noise\n', 0) == {"status": "done"}
    assert result_in('{"status": "done"}\n', 1)["status"] == "failed"
    assert result_in("noise\n", 0)["status"] == "failed"


def test_figures_are_held_against_the_issues_targets() -> None:
    results = [
        {"row": "decoding", "status": "done", "figures": {"B=64": {"ratio_to_transformers": 7.0}}},
        {"row": "training", "status": "failed"},
    ]
    assert comparisons(results) == [("decoding B=64 ratio_to_transformers", 7.0, 5.0)]


def test_the_peer_has_our_logits() -> None:
    """But for GELU, which nanoGPT has exact."""
    ours = tiny_model(tiny_config("gpt2"))
    ids = random_ids(2, 12)
    with torch.no_grad():
        logits, loss = nanogpt_of(ours)(ids, ids)
        expected = ours(ids) @ ours.output_weight.T
    torch.testing.assert_close(logits, expected, atol=5e-3, rtol=5e-3)
    assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits.view(-1, 97), ids.view(-1))))


def test_a_stand_in_config_has_the_defaults_and_refuses_other_names() -> None:
    class Inner(BaseModel):
        share: float = 0.5

    class Outer(Inner):
        inner: Inner = Inner()
        count: int

    made = Outer(count=3)
    assert (made.count, made.share, made.inner.share) == (3, 0.5, 0.5)
    copy = made.model_copy(update={"share": 0.25})
    assert (copy.count, copy.share, made.share) == (3, 0.25, 0.5)
    with pytest.raises(TypeError, match="Outer has no field size"):
        Outer(count=3, size=4)
