"""A report over damaged run folders: what can be read is shown, what cannot is named, and nothing is a traceback."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutations import mutations
from tests.report import test_report
from trine.report.report import write_report
from trine.report.run_reader import read_recipe_run
from trine.runtime.errors import TrineError

out = test_report.out
PAIR = {"prompt": "Add.", "chosen": "a person's words", "rejected": "a model's words"}
FILES = (
    "recipe.json", "evaluate/done.json", "evaluate/samples.jsonl", "evaluate/config.yaml", "pretrain/done.json",
    "pretrain/metrics.jsonl", "pretrain/run.json", "ppo/metrics.jsonl", "reward/done.json", "reward_pairs/train.jsonl",
)  # fmt: skip


def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take nearly all of a report's time; their data are read as before."""
    from trine.report import outcome, ppo_sections, pretraining_sections, training_sections

    for module in (outcome, ppo_sections, pretraining_sections, training_sections):
        for name in ("line_plot", "histogram_plot", "reliability_plot"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_, **__: "")


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_shown_left_out_with_a_note_or_refused_by_name(
    out: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.5: 20 damaged copies of each file that a report reads."""
    without_plots(monkeypatch)
    path = out / file
    if file.endswith("train.jsonl"):
        path.write_text(json.dumps(PAIR) + "\n")
    whole = path.read_bytes()
    for name, damaged in mutations(whole, seed=1, count=20):
        path.write_bytes(damaged)
        try:
            page, text = write_report(out)
        except TrineError as error:
            assert str(path) in str(error), name
            continue
        notes = read_recipe_run(out).notes
        for note in notes:
            assert str(path) in note, name
        assert all(note[:30] in text for note in notes), name
        assert page.read_text("utf-8").count("<li>") >= len(notes), name


def rows_of(kind: str) -> Iterator[bytes]:
    good = [json.dumps({"step": step, "loss": 1.0}).encode() for step in range(1, 6)]
    bad = {
        "garbage": b"\xff\xfe{",
        "list": b"[1]",
        "deep": b"[" * 100_000,
        "digits": b"9" * 5000,
        "half": b'{"step": 9',
    }
    yield from (*good[:2], bad[kind], *good[2:], bad[kind])


@pytest.mark.parametrize("kind", ["garbage", "list", "deep", "digits", "half"])
def test_rows_that_can_be_read_are_shown_and_the_others_counted(out: Path, kind: str) -> None:
    """5.5: nothing is silently less: the number of lines left out, and where the first is."""
    (out / "finetune" / "metrics.jsonl").write_bytes(b"\n".join(rows_of(kind)))
    run = read_recipe_run(out)
    assert [row["step"] for row in run.of_stage("finetune")[0].metrics] == [1, 2, 3, 4, 5]
    assert run.notes == [
        f"{out / 'finetune' / 'metrics.jsonl'}: no JSON objects, and left out: 2 lines, the first of them 3"
    ]


def test_files_of_another_shape_cost_their_section_alone(out: Path) -> None:
    """JSON that a stage never wrote: the section goes, with a note; the rest of the page stays."""
    done = json.loads((out / "evaluate" / "done.json").read_text())
    (out / "evaluate" / "done.json").write_text(json.dumps(done | {"before": None, "prompts": "many"}))
    (out / "pretrain" / "metrics.jsonl").write_text(
        '{"step": "one", "cross_entropy": [1]}\n{"step": 2, "seconds": "x"}\n'
    )
    path, text = write_report(out)
    page = path.read_text("utf-8")
    assert f"not shown: {out / 'evaluate'}: done.json" in text.replace("\n", " ")
    assert "What could not be read" in page and "Reward model: reward" in page and "Pretraining" in page


def test_a_whole_run_has_no_notes(out: Path) -> None:
    assert read_recipe_run(out).notes == []
    path, text = write_report(out)
    assert "What could not be read" not in path.read_text("utf-8") and "not shown" not in text


def test_a_folder_whose_only_run_is_damaged_says_so(out: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(out / "finetune", alone / "finetune")
    (alone / "finetune" / "run.json").write_text("{")
    with pytest.raises(TrineError, match=r"finetune/run\.json is not readable JSON"):
        write_report(alone)
