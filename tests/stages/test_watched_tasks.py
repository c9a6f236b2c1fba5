"""Tasks that are asked while a model is fine-tuned: figures in the log, the best model kept, also over a stop."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, finetune_config
from tests.several_processes import in_processes
from trine.catalog.loading import open_hardware, open_model
from trine.config.base import LoopConfig
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.evaluation.evaluate import evaluate_tasks
from trine.stages.evaluation.task_files import make_task, read_task
from trine.stages.finetuning import finetune, watched_tasks

FIGURE = "lines/bits_per_byte"
TURN = "parity/accuracy_sum_0_shots"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Bits per byte of a few lines, and a choice that is put as a turn of a conversation."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"n": n, "parity": ("even", "odd")[n % 2], "text": f"return {n} + {n}"} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "lines.yaml").write_text("kind: bits_per_byte\nrecords: rows.jsonl\n")
    (folder / "parity.yaml").write_text(
        'kind: choice\nrecords: rows.jsonl\ntemplate: "{{ n }} is"\n'
        'answer: " {{ parity }}"\nchoices: [" even", " odd"]\n'
    )
    return str(folder / "lines.yaml"), str(folder / "parity.yaml")


def config(out: Path, shared: Path, tasks: tuple[str, str], **changes: Any) -> Any:
    loop = LoopConfig(evaluate_every=2, save_every=2)
    asked = {"evaluate_tasks": tasks, "keep_best": FIGURE, "loop": loop, "epochs": 1.0} | changes
    return finetune_config(out, shared / "pretrain", shared / "functions", **asked)


@pytest.fixture(scope="module")
def watched_run(
    tmp_path_factory: pytest.TempPathFactory, shared: Path, finetune_run: Path, tasks: tuple[str, str]
) -> Path:
    return finetune.run(config(tmp_path_factory.mktemp("watched") / "run", shared, tasks))


def test_figures_of_tasks_stand_in_the_log(watched_run: Path, tasks: tuple[str, str]) -> None:
    rows = [row for row in read_jsonl(watched_run / "metrics.jsonl") if FIGURE in row]
    assert len(rows) > 1
    assert all(TURN in row and "held_out_cross_entropy" in row for row in rows)
    assert read_json(watched_run / "done.json")[FIGURE] == rows[-1][FIGURE]


def _train(out: Path, shared: Path, tasks: tuple[str, str]) -> None:
    finetune.run(config(out, shared, tasks, parallel="ddp"))


def test_two_processes_find_the_figures_of_one(
    watched_run: Path, shared: Path, tasks: tuple[str, str], tmp_path: Path
) -> None:
    in_processes(2, _train, tmp_path / "run", shared, tasks)
    one, two = (
        [row[FIGURE] for row in read_jsonl(run / "metrics.jsonl") if FIGURE in row]
        for run in (watched_run, tmp_path / "run")
    )
    assert two == pytest.approx(one, rel=1e-4)
    assert read_json(tmp_path / "run" / "best.json")["step"] == read_json(watched_run / "best.json")["step"]


def test_the_best_model_is_kept(watched_run: Path, tasks: tuple[str, str]) -> None:
    """What lies in best/ has the figure that the log has at its step, which is the lowest of all."""
    rows = {row["step"]: row[FIGURE] for row in read_jsonl(watched_run / "metrics.jsonl") if FIGURE in row}
    best = read_json(watched_run / "best.json")
    assert best == read_json(watched_run / "done.json")["best"]
    assert best["value"] == rows[best["step"]] == min(rows.values())
    model, tokenizer = open_model(watched_run / "best", open_hardware(PLAIN_CPU))
    again = evaluate_tasks(model, tokenizer, [make_task(read_task(tasks[0], {}), 0)])
    assert again[FIGURE]["mean"] == pytest.approx(best["value"], abs=1e-6)


def test_asking_changes_nothing_of_the_training(
    watched_run: Path, tmp_path: Path, shared: Path, tasks: tuple[str, str]
) -> None:
    plain = finetune.run(config(tmp_path / "plain", shared, tasks, evaluate_tasks=(), keep_best=None))
    weights = [
        path.read_bytes() for path in (plain / "model/model.safetensors", watched_run / "model/model.safetensors")
    ]
    assert weights[0] == weights[1]
    assert not (plain / "best").exists()


def test_a_resumed_run_keeps_the_best_of_both_parts(
    watched_run: Path, tmp_path: Path, shared: Path, tasks: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its third evaluation; what comes out is what the run that was never stopped has."""
    asked = 0

    def killed(*arguments: Any, **settings: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        return evaluate_tasks(*arguments, **settings)

    monkeypatch.setattr(watched_tasks, "evaluate_tasks", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config(tmp_path / "run", shared, tasks))
    assert (tmp_path / "run" / "best.json").exists()
    run = finetune.run(config(tmp_path / "run", shared, tasks))
    assert asked > 4
    assert read_json(run / "best.json") == read_json(watched_run / "best.json")
    best = [path.read_bytes() for path in (run / "best/model.safetensors", watched_run / "best/model.safetensors")]
    assert best[0] == best[1]


def test_a_figure_that_no_task_has_is_refused(
    tmp_path: Path, shared: Path, finetune_run: Path, tasks: tuple[str, str]
) -> None:
    with pytest.raises(
        TrineError, match=r"keep_best=x is no figure of evaluate_tasks; there are lines/bits_per_byte, "
    ):
        finetune.run(config(tmp_path / "run", shared, tasks, keep_best="x"))
