"""DPO and its kin, whole runs and single steps: exact at the start, the same however a step is cut."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, QUIET_LOOP
from trine.config.dpo import DpoConfig
from trine.runtime.files import read_json, read_jsonl
from trine.stages.direct.dpo import run

LOG_2 = 0.6931471805599453


def dpo_config(out: Path, model: Path, preferences: Path, **changes: Any) -> DpoConfig:
    values: dict[str, Any] = {
        "out": out, "model": str(model), "preferences": preferences, "batch_size": 4, "micro_batch_size": 2,
        "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return DpoConfig(**values | changes)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "simpo", "orpo"])
def test_it_runs(tmp_path: Path, finetune_run: Path, preferences_run: Path, loss: str) -> None:
    folder = run(dpo_config(tmp_path / "run", finetune_run, preferences_run, loss=loss, epochs=3.0))
    for row in rows_of(folder):
        print({k: round(v, 4) for k, v in row.items()})
    print(read_json(folder / "done.json"))
    assert 0
